// Section 8, the objects: sealed objects, key objects, tables, pack and snapshot records.

namespace {

/// A small object of two frames with what its table says.
struct SmallObject {
    SmallObject(const Label& label, const Keys& keys) : sealed(made(label, keys).finish()) {}
    static Sealer made(const Label& label, const Keys& keys) {
        Sealer sealer(keys, label);
        sealer.add({Kind::tree, 0, {{chunk_id(1), 5}, {chunk_id(2), 7}}}, frame_of(as_bytes("first frame!")));
        sealer.add({Kind::data, 0, {{chunk_id(3), 0}}}, frame_of(as_bytes("second")));
        return sealer;
    }
    const Table& table() const { return sealed.table; }
    PlainObject sealed;
};

std::string shown(const Table& table) {
    std::string s;
    for (auto& f : table) {
        s += text(int(f.kind), ":", f.sealed, "(");
        for (auto& c : f.chunks) s += text(hex(c.id), "/", c.length, " ");
        s += ")";
    }
    return s;
}
std::string shown(const Names& names) {
    std::string s;
    for (auto& [number, name] : names) s += text(number, "=", name.size(), ":", name, ";");
    return s;
}
std::string shown(const Snapshot& s) {
    auto& c = s.counts;
    std::string out =
        text(hex(s.id), "|", s.time, "|", s.host, "|", s.user, "|", s.source, "|", s.version, "|",
             s.incomplete, "|", c.files, ",", c.directories, ",", c.others, ",", c.bytes, ",", c.new_files,
             ",", c.changed_files, ",", c.new_bytes, "|", shown(s.users), "|", shown(s.groups), "|");
    for (auto& t : s.tags) out += t + ",";
    for (auto& id : s.tree) out += hex(id) + ",";
    return out;
}

Snapshot full_snapshot() {
    Snapshot s = sample_snapshot(3);
    s.time = -1;
    s.host = "h\xff\n";
    s.user = "";
    s.source = std::string(5000, '/');
    s.version = "0.1.0";
    s.tags = {"", "tag", std::string(300, 't')};
    s.incomplete = true;
    s.counts = {1, 128, 1u << 14, UINT64_MAX, 1, 2, 3};
    s.users = {{0, "root"}, {1000, ""}, {UINT32_MAX, "nobody"}};
    s.groups = {{0, std::string("nul\0", 4)}};
    for (uint64_t i = 0; i < 10; ++i) s.tree.push_back(chunk_id(i));
    return s;
}

PackInfo sample_pack() {
    PackInfo p;
    p.name = hash_of(1);
    p.salt = hash_of(2);
    p.size = kPackMax;
    p.table.resize(3);
    p.table[0].sealed = 17;
    p.table[0].chunks = {{chunk_id(1), uint32_t(kChunkMax)}, {chunk_id(2), 0}};
    p.table[1].kind = Kind::snapshot;
    p.table[1].sealed = uint32_t(kFrameMax + MiB);
    p.table[1].chunks = {{chunk_id(3), 0}};
    p.table[2].kind = Kind::tree;
    p.table[2].sealed = 16;
    p.table[2].chunks = {{chunk_id(4), 5}};
    return p;
}

} // namespace

TEST_CASE("padme: sizes grow to a KiB or by 6 percent, and tell little") {
    CHECK(padme(0) == 0);
    CHECK(padme(1) == 1024);
    CHECK(padme(1024) == 1024);
    CHECK(padme(1025) == 2048);
    CHECK(padme(40'000) == 40'960);
    auto most = [](size_t n) { return std::max(1023.0, 0.0625 * double(n)); };
    std::set<size_t> sizes;
    size_t last = 0;
    for (size_t n = 0; n < 200'000; ++n) {
        size_t p = padme(n);
        if (p < n || p < last || padme(p) != p || double(p - n) > most(n)) {
            INFO(n, " becomes ", p);
            CHECK(p >= n);
            CHECK(p >= last);
            CHECK(padme(p) == p);
            CHECK(double(p - n) <= most(n));
        }
        sizes.insert(last = p);
    }
    CHECK(sizes.size() < 100);
    for (size_t n = 16 * MiB - 3000; n < 16 * MiB + 3000; n += 7)
        CHECK(double(padme(n) - n) <= 0.032 * double(n));
}

TEST_CASE("sealed object: opens to what was put in") {
    const Keys root(secret_of(noise(32, 1)));
    for (auto label : {kPackLabel, segment_label(1), segment_label(UINT32_MAX)}) {
        SmallObject o(label, root);
        CHECK(o.sealed.name == sha256(o.sealed.bytes));
        CHECK(o.sealed.bytes.size() == padme(o.sealed.bytes.size()));
        CHECK(string_of(View(o.sealed.bytes).first(8)) == string_of(label.magic));
        CHECK(string_of(View(o.sealed.bytes).subspan(8, 32)) == string_of(o.sealed.salt));
        auto opened = open_object(root, label, foreign(o.sealed.bytes), "it");
        CHECK(shown(opened.table) == shown(o.table()));
        REQUIRE(opened.frames.size() == 2);
        CHECK(string_of(decompress(opened.frames[0], kFrameMax)) == "first frame!");
        CHECK(string_of(decompress(opened.frames[1], kFrameMax)) == "second");
    }
    auto empty = PlainObject(Sealer(root, kPackLabel).finish());
    CHECK(open_object(root, kPackLabel, foreign(empty.bytes), "it").frames.empty());
}

TEST_CASE("sealed object: each sealing has its own salt, and so its own name and key") {
    const Keys root(secret_of(noise(32, 1)));
    SmallObject a(kPackLabel, root), b(kPackLabel, root);
    CHECK(a.sealed.salt != b.sealed.salt);
    CHECK(a.sealed.name != b.sealed.name);
    // The same frame at the same place under the same nonce: equal only if the key was.
    CHECK(string_of(View(a.sealed.bytes).subspan(kHead, 8)) !=
          string_of(View(b.sealed.bytes).subspan(kHead, 8)));
    CHECK(string_of(View(a.sealed.bytes).subspan(kHead)).find("first") == std::string::npos);
}

TEST_CASE("sealed object: a flip of any bit and a cut at any length is refused") {
    const Keys root(secret_of(noise(32, 1)));
    SmallObject o(segment_label(5), root);
    auto open = [&](View v) { open_object(root, segment_label(5), foreign(v), "it"); };
    check_every_truncation(o.sealed.bytes, open);
    for (size_t at = 0; at < o.sealed.bytes.size(); ++at)
        for (int bit : {0x01, 0x80}) {
            INFO("byte ", at, ", bit ", bit);
            auto bad = o.sealed.bytes;
            bad[at] = uint8_t(bad[at] ^ bit);
            if (at == 7) // a version of the future: not damage
                CHECK_NAMES(complaint([&] { open(bad); }), "get a newer one");
            else
                CHECK_THROWS_AS(open(bad), Corrupt);
        }
    auto longer = o.sealed.bytes;
    longer.push_back(0);
    CHECK_THROWS_AS(open(longer), Corrupt);
    longer.resize(longer.size() + 100);
    CHECK_THROWS_AS(open(longer), Corrupt);
}

TEST_CASE("sealed object: opens as what it is only") {
    const Keys root(secret_of(noise(32, 1))), other(secret_of(noise(32, 2)));
    SmallObject o(segment_label(5), root), pack(kPackLabel, root);
    CHECK_NOTHROW(open_object(root, segment_label(5), foreign(o.sealed.bytes), "it"));
    CHECK_THROWS_AS(open_object(root, segment_label(4), foreign(o.sealed.bytes), "it"), Corrupt);
    CHECK_THROWS_AS(open_object(root, segment_label(0), foreign(o.sealed.bytes), "it"), Corrupt);
    CHECK_THROWS_AS(open_object(root, kPackLabel, foreign(o.sealed.bytes), "it"), Corrupt);
    CHECK_THROWS_AS(open_object(other, segment_label(5), foreign(o.sealed.bytes), "it"), Corrupt);
    CHECK_THROWS_AS(open_object(root, segment_label(0), foreign(pack.sealed.bytes), "it"), Corrupt);
    // Not even with the other kind's magic written over its own.
    auto forged = pack.sealed.bytes;
    std::ranges::copy(kSegmentLabel.magic, forged.begin());
    CHECK_THROWS_AS(open_object(root, segment_label(0), foreign(forged), "it"), Corrupt);
}

TEST_CASE("sealed object: one that authenticates but is not of the shape is refused") {
    const Keys root(secret_of(noise(32, 1)));
    struct Forgery { // by somebody who has the keys, or by a bug
        std::vector<Bytes> frames{bytes_of("first"), bytes_of("second")};
        std::vector<uint32_t> lengths{5 + kTag, 6 + kTag};
        size_t gap = 0;
        Bytes padding = Bytes(7);
        int64_t offset = 0; // of the table, less what it should be
    };
    auto opens = [&](const Forgery& f) {
        Bytes out(kPackLabel.magic.begin(), kPackLabel.magic.end());
        out.resize(kHead);
        Aead aead(hkdf(pack_key(root).view(), View(out).subspan(8, 32), "nfreeze object"),
                  kPackLabel.associated());
        for (size_t i = 0; i < f.frames.size(); ++i) aead.seal(i, f.frames[i], out);
        out.resize(out.size() + f.gap);
        Writer footer, tail;
        footer.u64(out.size() + uint64_t(f.offset));
        Table table(f.lengths.size());
        for (size_t i = 0; i < table.size(); ++i) table[i].sealed = f.lengths[i];
        encode_table(tail, table);
        tail.raw(f.padding);
        aead.seal(kNonceTable, tail.view(), out);
        aead.seal(kNonceFooter, footer.view(), out);
        try {
            return open_object(root, kPackLabel, foreign(out), "it").frames == f.frames;
        } catch (const Corrupt&) {
            return false;
        }
    };
    auto with = [](auto change) {
        Forgery f;
        change(f);
        return f;
    };
    CHECK(opens(Forgery{}));
    CHECK(opens(with([](auto& f) { f.padding = {}; })));
    CHECK_FALSE(opens(with([](auto& f) { f.padding[0] = 1; })));
    CHECK_FALSE(opens(with([](auto& f) { f.padding.back() = 1; })));
    CHECK_FALSE(opens(with([](auto& f) { f.gap = 1; })));
    CHECK_FALSE(opens(with([](auto& f) { f.gap = 100; })));
    CHECK_FALSE(opens(with([](auto& f) { f.lengths.pop_back(); })));
    CHECK_FALSE(opens(with([](auto& f) { f.lengths.push_back(0); })));
    CHECK_FALSE(opens(with([](auto& f) { f.lengths.push_back(kTag); })));
    CHECK_FALSE(opens(with([](auto& f) { f.lengths[0] = kTag - 1; })));
    CHECK_FALSE(opens(with([](auto& f) { f.lengths[1] += 1; })));
    CHECK_FALSE(opens(with([](auto& f) { f.lengths[1] = uint32_t(kFrameMax); })));
    CHECK_FALSE(opens(with([](auto& f) { std::swap(f.lengths[0], f.lengths[1]); })));
    for (int64_t wrong : {int64_t(1), int64_t(-1), int64_t(-1000), int64_t(1000), INT64_MAX, INT64_MIN})
        CHECK_FALSE(opens(with([&](auto& f) { f.offset = wrong; })));
}

TEST_CASE("sealed object: parts of two objects do not mix") {
    const Keys root(secret_of(noise(32, 1)));
    SmallObject a(kPackLabel, root), b(kPackLabel, root);
    REQUIRE(a.sealed.bytes.size() == b.sealed.bytes.size());
    for (size_t at = 8; at < a.sealed.bytes.size(); at += 8) {
        auto mixed = a.sealed.bytes;
        std::copy(b.sealed.bytes.begin() + long(at), b.sealed.bytes.end(), mixed.begin() + long(at));
        if (at == 8) // all of b but its magic, which is the same
            CHECK_NOTHROW(open_object(root, kPackLabel, foreign(mixed), "it"));
        else
            CHECK_THROWS_AS(open_object(root, kPackLabel, foreign(mixed), "it"), Corrupt);
    }
    // Two frames of one object in each other's place.
    auto swapped = a.sealed.bytes;
    std::rotate(swapped.begin() + long(kHead), swapped.begin() + long(kHead + a.table()[0].sealed),
                swapped.begin() + long(kHead + a.table()[0].sealed + a.table()[1].sealed));
    CHECK_THROWS_AS(open_object(root, kPackLabel, foreign(swapped), "it"), Corrupt);
}

TEST_CASE("table: every kind of frame comes back, cut short it is refused") {
    auto table = sample_pack().table;
    Writer w;
    encode_table(w, table);
    auto bytes = w.take();
    Reader in(bytes, "it");
    CHECK(shown(decode_table(in)) == shown(table));
    CHECK(in.empty());
    check_every_truncation(bytes, [](View v) {
        Reader r(v, "it");
        decode_table(r);
    });
    check_mutilations(bytes, 3000, [](View v) {
        Reader r(v, "it");
        decode_table(r);
    });
}

TEST_CASE("table: numbers beyond their limits are refused before they are believed") {
    auto decode = [](auto fill) {
        Writer w;
        fill(w);
        auto bytes = w.take();
        Reader r(bytes, "it");
        decode_table(r);
    };
    CHECK_NOTHROW(decode([](Writer& w) { w.varint(0); }));
    CHECK_THROWS_AS(decode([](Writer& w) { w.varint(UINT64_MAX); }), Corrupt);
    CHECK_THROWS_AS(decode([](Writer& w) { w.varint(kPackMax); }),
                    Corrupt); // more frames than bytes
    auto frame = [&](uint8_t kind, uint64_t sealed, std::vector<uint64_t> lengths) {
        decode([&](Writer& w) {
            w.varint(1);
            w.u8(kind);
            w.varint(sealed);
            w.varint(lengths.size());
            for (auto n : lengths) w.varint(n);
            for (auto n : lengths) w.raw(chunk_id(n));
        });
    };
    CHECK_NOTHROW(frame(3, kFrameMax + MiB, {kChunkMax, kChunkMax, kChunkMax, kChunkMax}));
    CHECK_THROWS_AS(frame(4, 20, {1}), Corrupt);
    CHECK_THROWS_AS(frame(0, kFrameMax + MiB + 1, {1}), Corrupt);
    CHECK_THROWS_AS(frame(0, 20, {kChunkMax + 1}), Corrupt);
    CHECK_THROWS_AS(frame(0, 20, {UINT64_MAX}), Corrupt);
    CHECK_THROWS_AS(frame(0, 20, {kChunkMax, kChunkMax, kChunkMax, kChunkMax, 1}), Corrupt);
}

TEST_CASE("pack record: comes back, cut short it is refused") {
    auto p = sample_pack();
    auto bytes = encode_pack(p);
    Reader in(bytes, "it");
    auto back = decode_pack(in);
    CHECK(back.name == p.name);
    CHECK(back.salt == p.salt);
    CHECK(back.size == p.size);
    CHECK(shown(back.table) == shown(p.table));
    auto decode = [](View v) {
        Reader r(v, "it");
        decode_pack(r);
    };
    check_every_truncation(bytes, decode);
    check_mutilations(bytes, 3000, decode);
    bytes.push_back(0);
    CHECK_THROWS_AS(decode(bytes), Corrupt);
    p.size = kPackMax + 1;
    CHECK_THROWS_AS(decode(encode_pack(p)), Corrupt);
    p.size = kHead; // smaller than its frames
    CHECK_THROWS_AS(decode(encode_pack(p)), Corrupt);
}

TEST_CASE("snapshot record: comes back, cut short it is refused") {
    for (auto& s : {Snapshot{}, sample_snapshot(1), full_snapshot()}) {
        auto bytes = encode_snapshot(s);
        CHECK(shown(decode_snapshot(bytes)) == shown(s));
        bytes.push_back(0);
        CHECK_THROWS_AS(decode_snapshot(bytes), Corrupt);
    }
    auto s = full_snapshot();
    s.source = "/short"; // the test is quadratic
    check_every_truncation(encode_snapshot(s), [](View v) { decode_snapshot(v); });
    check_mutilations(encode_snapshot(s), 5000, [](View v) { decode_snapshot(v); });
    for (int64_t time : {INT64_MIN, int64_t(0), INT64_MAX}) {
        s.time = time;
        CHECK(decode_snapshot(encode_snapshot(s)).time == time);
    }
}

TEST_CASE("snapshot record: texts beyond their limits are refused, and not written") {
    Snapshot s = sample_snapshot(1);
    s.host = std::string(kNameMax, 'h');
    s.source = std::string(kPathMax, 's');
    CHECK_NOTHROW(decode_snapshot(encode_snapshot(s)));
    s.host += 'h';
    CHECK_THROWS_AS(encode_snapshot(s), Error); // because decode_snapshot() refuses it
    s.host = "";
    s.source += 's';
    CHECK_THROWS_AS(encode_snapshot(s), Error); // because decode_snapshot() refuses it
    s.source = "";
    s.users[7] = std::string(kNameMax + 1, 'u');
    CHECK_THROWS_AS(encode_snapshot(s), Error); // because decode_snapshot() refuses it
}

TEST_CASE("key object: opens with its passphrase only") {
    auto master = secret_of(noise(32, 1));
    auto object = encode_key_object(master, passphrase(), cheap(), 5, "me@here");
    CHECK(object.size() == kKeySize);
    CHECK(object.size() == 193);
    auto opened = open_key_object(object, passphrase());
    REQUIRE(opened);
    CHECK(*opened == master);
    CHECK_FALSE(open_key_object(object, Secret("Correct horse battery staple")));
    CHECK_FALSE(open_key_object(object, Secret("")));
    auto again = encode_key_object(master, passphrase(), cheap(), 5, std::string(200, 'l'));
    CHECK(again.size() == kKeySize);
    CHECK(hex(View(again).subspan(17, 32)) != hex(View(object).subspan(17, 32))); // its own salt
    CHECK(string_of(object).find(string_of(master.view())) == std::string::npos);
}

TEST_CASE("key object: a flip anywhere is refused") {
    auto object = encode_key_object(secret_of(noise(32, 1)), passphrase(), cheap(), 5, "me");
    // Each of these costs a derivation: the salt, the sealed part, the tag.
    for (size_t at : {size_t(48), kKeyHead, kKeySize - kTag - 1, kKeySize - 1}) {
        INFO("byte ", at);
        auto bad = object;
        bad[at] ^= 1;
        CHECK_FALSE(open_key_object(bad, passphrase()));
    }
    for (size_t at = 0; at < 7; ++at) {
        auto bad = object;
        bad[at] ^= 1;
        CHECK_THROWS_AS(open_key_object(bad, passphrase()), Corrupt);
    }
    auto newer = object;
    newer[7] = 2;
    CHECK_NAMES(complaint([&] { (void)open_key_object(newer, passphrase()); }), "get a newer one");
    for (size_t n = 0; n < object.size(); ++n)
        CHECK_THROWS_AS(open_key_object(View(object).first(n), passphrase()), Corrupt);
    object.push_back(0);
    CHECK_THROWS_AS(open_key_object(object, passphrase()), Corrupt);
}

TEST_CASE("key object: a cost that is too cheap or too dear is refused before it is paid") {
    auto object = encode_key_object(secret_of(noise(32, 1)), passphrase(), cheap(), 5, "me");
    auto begun = Clock::now();
    auto with = [&](uint8_t log_n, uint32_t r, uint32_t p) {
        auto bad = object;
        Writer w;
        w.u8(log_n);
        w.u32(r);
        w.u32(p);
        std::ranges::copy(w.view(), bad.begin() + 8);
        return bad;
    };
    CHECK(with(15, 8, 1) == object);
    for (auto& bad : {with(14, 8, 1), with(1, 8, 1), with(0, 8, 1), with(15, 1, 1), with(15, 8, 0),
                      with(15, 0, 1), with(21, 8, 1), with(63, 8, 1), with(255, 8, 1), with(15, 512, 1),
                      with(15, 8, 17), with(15, UINT32_MAX, UINT32_MAX)}) {
        INFO(hex(View(bad).subspan(8, 9)));
        CHECK_THROWS_AS(open_key_object(bad, passphrase()), Corrupt);
    }
    CHECK(Clock::now() - begun < std::chrono::seconds(1));
}
