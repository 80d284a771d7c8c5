// Section 8, the index in memory.

namespace {

// A way to look at PlaceMap's parts, which are its own: an explicit instantiation may name them.
auto& parts_of(PlaceMap& map);
template <auto Member> struct Opened {
    friend auto& parts_of(PlaceMap& map) { return map.*Member; }
};
template struct Opened<&PlaceMap::parts_>;

size_t slots_of(PlaceMap& map) {
    size_t n = 0;
    for (auto& part : parts_of(map)) n += part.slots.capacity();
    return n;
}

/// A pack with one frame for each list of chunks; named, salted and sized by its seed.
PackInfo pack_of(uint64_t seed, const std::vector<std::vector<uint64_t>>& frames) {
    PackInfo p;
    p.name = hash_of(seed);
    p.salt = hash_of(seed + 1000);
    p.size = 1000 + seed;
    for (auto& chunks : frames) {
        FrameInfo f;
        f.sealed = uint32_t(100 + chunks.size());
        for (auto c : chunks) f.chunks.push_back({chunk_id(c), uint32_t(10 + c)});
        p.table.push_back(f);
    }
    return p;
}
Bytes joined(std::initializer_list<Bytes> parts) {
    Bytes all;
    for (auto& p : parts) all.insert(all.end(), p.begin(), p.end());
    return all;
}
Bytes pack_added(const PackInfo& p) { return record(Record::pack_added, encode_pack(p)); }

struct SegmentOf {
    uint32_t seq;
    Bytes records;
};

/// All that the index answers about chunks 1 to `most`, as text; `best`: with the preferred place
/// first.
std::string answers(Index& index, uint64_t most, bool best) {
    std::string s;
    for (auto& [id, snapshot] : index.snapshots)
        s += text("snapshot ", hex(id), " ", hex(encode_snapshot(snapshot)), "\n");
    for (auto& id : index.forgotten) s += "forgotten " + hex(id) + "\n";
    for (auto& [name, since] : index.condemned) s += text("condemned ", hex(name), " ", since, "\n");
    for (auto& name : index.deleted) s += "deleted " + hex(name) + "\n";
    for (auto& [name, since] : index.superseded) s += text("superseded ", hex(name), " ", since, "\n");
    for (auto& name : index.parents) s += "parent " + hex(name) + "\n";
    for (auto& name : index.torn) s += "torn " + hex(name) + "\n";
    for (uint64_t c = 1; c <= most; ++c) {
        std::vector<std::string> places;
        for (auto& p : index.places(chunk_id(c))) {
            auto& f = index.frame(p.frame);
            auto& pack = index.pack(f);
            places.push_back(text(hex(short_name(pack.name)), pack.condemned ? "!" : "", " #", f.number, " ",
                                  f.offset, "+", f.sealed, " ", p.offset, "+", p.length, " of ", f.raw));
        }
        if (!best) std::ranges::sort(places);
        s += text("chunk ", c, index.knows(chunk_id(c)) ? " known" : "",
                  index.rely_on(chunk_id(c)) ? " reliable" : "");
        for (auto& p : places) s += "; " + p;
        s += "\n";
    }
    return s;
}

/// Applies the segments in every order; all orders must give the same answers, which are returned.
std::string in_every_order(const std::vector<SegmentOf>& segments, const std::vector<PackInfo>& listed,
                           uint64_t chunks, bool best) {
    std::vector<size_t> order(segments.size());
    for (size_t i = 0; i < order.size(); ++i) order[i] = i;
    std::string first;
    do {
        Index index;
        index.listed_packs.emplace();
        for (auto& p : listed) (*index.listed_packs)[p.name] = {p.size, 0};
        std::string path;
        for (size_t i : order) {
            index.apply(segments[i].records, segments[i].seq);
            path += text(i, " ");
        }
        auto got = answers(index, chunks, best);
        if (first.empty()) first = got;
        INFO("applied in the order ", path);
        CHECK(got == first);
    } while (std::ranges::next_permutation(order).found);
    return first;
}

} // namespace

TEST_CASE("place map: finds each of 100,000 ids, no other, in at most 48 bytes for each") {
    PlaceMap map;
    std::vector<ChunkId> ids;
    auto bytes = noise(200'000 * 16, 8);
    Reader in(bytes, "ids");
    for (int i = 0; i < 200'000; ++i) ids.push_back(in.array<16>());
    CHECK(map.find(ids[0]) == nullptr);
    for (uint32_t i = 0; i < 100'000; ++i) {
        auto& place = map.insert(ids[i]);
        if (place.frame != kNone) FAIL_CHECK("an id was there before it was inserted: ", i);
        place.frame = i;
        place.offset = 7 * i;
        if (i + 1 >= 50'000 && (i + 1) % 2'000 == 0) {
            double each = double(slots_of(map) * sizeof(Place)) / (i + 1);
            INFO(each, " bytes for each of ", i + 1);
            CHECK(each <= 48);
        }
    }
    size_t wrong = 0, phantoms = 0;
    for (uint32_t i = 0; i < 100'000; ++i) {
        auto* p = map.find(ids[i]);
        wrong += !p || p->frame != i || p->offset != 7 * i || p->id != ids[i] || &map.insert(ids[i]) != p;
        phantoms += map.find(ids[100'000 + i]) != nullptr;
    }
    CHECK(wrong == 0);
    CHECK(phantoms == 0);
    size_t sum = 0, count = 0;
    map.each([&](Place& p) {
        sum += p.frame;
        ++count;
    });
    CHECK(count == 100'000);
    CHECK(sum == size_t(99'999) * 50'000);
}

TEST_CASE("place map: ids that share all bytes of the hash are told apart") {
    PlaceMap map;
    ChunkId id{};
    for (uint32_t i = 0; i < 3000; ++i) {
        id[8] = uint8_t(i);
        id[9] = uint8_t(i >> 8);
        map.insert(id).frame = i;
    }
    for (uint32_t i = 0; i < 3000; ++i) {
        id[8] = uint8_t(i);
        id[9] = uint8_t(i >> 8);
        REQUIRE(map.find(id));
        CHECK(map.find(id)->frame == i);
    }
    id[10] = 1;
    CHECK_FALSE(map.find(id));
}

TEST_CASE("index: segments give the same answers in whatever order they are read") {
    auto p1 = pack_of(1, {{1, 2}, {3}}), p2 = pack_of(2, {{3, 4}}), p3 = pack_of(3, {{5}, {1}}),
         absent = pack_of(4, {{6, 4}}), p5 = pack_of(5, {{2, 5, 7}});
    auto s1 = sample_snapshot(1), s2 = sample_snapshot(2), s3 = sample_snapshot(3);
    auto name = [](uint64_t seed) { return short_name(hash_of(seed)); };
    std::vector<SegmentOf> segments{
        {1, joined({pack_added(p1), snapshot_added(s1)})},
        {2, joined({record(Record::segment_parent, name(101)), pack_added(p2), snapshot_added(s2)})},
        {3, joined({pack_added(p3), condemned_record(p1.name), record(Record::snapshot_forgotten, s1.id),
                    pack_added(absent)})},
        {4, joined({superseded_record(name(102)), record(Record::segment_parent, name(103)), pack_added(p2),
                    snapshot_added(s2), record(Record::segment_torn, name(9))})}, // took segment 2 in
        {5, joined({pack_added(p5), record(Record::pack_deleted, hash_of(77)), condemned_record(hash_of(78)),
                    snapshot_added(s3), record(Record::snapshot_forgotten, sample_snapshot(9).id)})}};
    auto got = in_every_order(segments, {p1, p2, p3, p5}, 8, false);
    INFO(got);
    auto line = [&](uint64_t chunk) {
        size_t at = got.find(text("chunk ", chunk, " ")), end = got.find('\n', at);
        return at == got.npos ? "" : got.substr(at, end - at);
    };
    CHECK(line(1).starts_with("chunk 1 known reliable")); // condemned in p1, but in p3, too
    CHECK(line(3).starts_with("chunk 3 known reliable"));
    CHECK(line(6) == "chunk 6 known"); // in a pack that is absent
    CHECK(line(7).starts_with("chunk 7 known reliable"));
    CHECK(got.find("chunk 8\n") != got.npos); // nowhere
}

TEST_CASE("index: the newest place of a chunk comes first in whatever order segments are read") {
    auto p1 = pack_of(1, {{1, 2}}), p2 = pack_of(2, {{1}, {2}}), p3 = pack_of(3, {{3, 2, 1}}),
         p4 = pack_of(4, {{1}}), p5 = pack_of(5, {{2}});
    std::vector<SegmentOf> segments{{1, pack_added(p1)},
                                    {2, pack_added(p2)},
                                    {30, pack_added(p3)},
                                    {4, pack_added(p4)},
                                    {5, pack_added(p5)}};
    auto got = in_every_order(segments, {p1, p2, p3, p4, p5}, 3, true);
    INFO(got);
    auto newest = hex(short_name(p3.name));
    CHECK(got.find("chunk 1 known reliable; " + newest) != got.npos);
    CHECK(got.find("chunk 2 known reliable; " + newest) != got.npos);
}

TEST_CASE("index: nothing relies on a pack that is absent, has another size or is condemned") {
    auto good = pack_of(1, {{1}}), absent = pack_of(2, {{2}}), resized = pack_of(3, {{3}}),
         doomed = pack_of(4, {{4}});
    Index index;
    index.listed_packs = std::map<Hash, Index::Listed>{
        {good.name, {good.size, 0}}, {resized.name, {resized.size - 1, 0}}, {doomed.name, {doomed.size, 0}}};
    index.apply(joined({pack_added(good), pack_added(absent), pack_added(resized), pack_added(doomed)}), 1);
    CHECK(index.rely_on(chunk_id(4)));
    index.apply(condemned_record(doomed.name), 2);
    CHECK(index.rely_on(chunk_id(1)));
    CHECK_FALSE(index.rely_on(chunk_id(2)));
    CHECK_FALSE(index.rely_on(chunk_id(3)));
    CHECK_FALSE(index.rely_on(chunk_id(4)));
    CHECK_FALSE(index.rely_on(chunk_id(5)));
    CHECK(index.knows(chunk_id(2)));
    CHECK_FALSE(index.knows(chunk_id(5)));
    CHECK(index.relies({}));
    CHECK(index.relies({chunk_id(1), chunk_id(1)}));
    CHECK_FALSE(index.relies({chunk_id(1), chunk_id(2)}));
    // What is absent cannot be read either; what is condemned still can.
    CHECK(index.places(chunk_id(2)).empty());
    CHECK(index.places(chunk_id(3)).empty());
    CHECK(index.places(chunk_id(4)).size() == 1);
    // 4 was relied on before it was condemned.
    auto endangered = index.relied_but_condemned();
    REQUIRE(endangered.size() == 1);
    CHECK(endangered[0].id == chunk_id(4));
}

TEST_CASE("index: a chunk with another place is relied on there") {
    auto old = pack_of(1, {{1, 2}}), newer = pack_of(2, {{1}});
    Index index;
    index.listed_packs =
        std::map<Hash, Index::Listed>{{old.name, {old.size, 0}}, {newer.name, {newer.size, 0}}};
    index.apply(pack_added(old), 1);
    index.apply(pack_added(newer), 2);
    index.apply(condemned_record(newer.name), 3);
    CHECK(index.rely_on(chunk_id(1)));
    CHECK(index.relied_but_condemned().empty());
    index.apply(condemned_record(old.name), 4);
    CHECK_FALSE(index.rely_on(chunk_id(1)));
    CHECK(index.relied_but_condemned().size() == 1);
    CHECK(index.places(chunk_id(1)).size() == 2); // both can still be read
}

TEST_CASE("index: frames lie one behind the other in a pack, chunks in a frame") {
    auto p = pack_of(1, {{1, 2, 3}, {5}, {4}});
    Index index;
    index.listed_packs = std::map<Hash, Index::Listed>{{p.name, {p.size, 0}}};
    index.apply(pack_added(p), 1);
    auto place = [&](uint64_t c) { return index.places(chunk_id(c)).at(0); };
    CHECK(place(1).offset == 0);
    CHECK(place(2).offset == 11);
    CHECK(place(3).offset == 11 + 12);
    CHECK(place(3).length == 13);
    CHECK(place(4).offset == 0);
    auto& last = index.frame(place(4).frame);
    CHECK(last.number == 2);
    CHECK(last.offset == kHead + 103 + 101);
    CHECK(last.sealed == 101);
    CHECK(index.frame(place(1).frame).raw == 11 + 12 + 13);
    CHECK(index.pack(last).salt == p.salt);
}

TEST_CASE("index: a chunk on its way counts as present") {
    Index index;
    auto frame = index.begin_frame(Kind::data);
    index.add_pending(chunk_id(1), frame, 0, 10);
    CHECK(index.rely_on(chunk_id(1)));
    CHECK(index.places(chunk_id(1)).empty()); // but cannot be read yet
    CHECK(index.relied_but_condemned().empty());
    PackInfo sent = pack_of(1, {{1}});
    sent.present = true;
    sent.seq = kNone;
    index.add_pack(sent, {frame});
    CHECK(index.places(chunk_id(1)).size() == 1);
    index.condemn(sent.name, 1);
    CHECK_FALSE(index.rely_on(chunk_id(1)));
    CHECK(index.relied_but_condemned().size() == 1);
}

TEST_CASE("index: what is no list of records is refused, what is of the future named") {
    Index index;
    auto whole = joined({pack_added(sample_pack()), snapshot_added(sample_snapshot(1)),
                         record(Record::segment_parent, chunk_id(1))});
    auto body_of = [](Record type, size_t size) { return record(type, Bytes(size)); };
    for (auto [type, size] : {std::pair{Record::pack_condemned, 40u},
                              {Record::pack_deleted, 32u},
                              {Record::segment_superseded, 24u}}) {
        CHECK_NOTHROW(index.apply(body_of(type, size), 1));
        CHECK_THROWS_AS(index.apply(body_of(type, size - 1), 1), Corrupt);
        CHECK_THROWS_AS(index.apply(body_of(type, size + 1), 1), Corrupt);
    }
    for (auto type : {Record::snapshot_forgotten, Record::segment_parent, Record::segment_torn}) {
        CHECK_NOTHROW(index.apply(body_of(type, 16), 1));
        CHECK_THROWS_AS(index.apply(body_of(type, 15), 1), Corrupt);
        CHECK_THROWS_AS(index.apply(body_of(type, 17), 1), Corrupt);
    }
    for (int type : {0, 9, 255}) {
        auto why = complaint([&] { index.apply(body_of(Record(type), 1), 1); });
        CHECK_NAMES(why, text("type ", type));
        CHECK_NAMES(why, "newer nfreeze");
    }
    size_t records_end_here = 0; // a cut between records leaves a shorter list
    for (size_t n = 0; n <= whole.size(); ++n) {
        Index fresh;
        Bytes cut(whole.begin(), whole.begin() + long(n));
        try {
            fresh.apply(cut, 1);
            ++records_end_here;
        } catch (const Corrupt&) {
        }
    }
    CHECK(records_end_here == 4);
    check_mutilations(whole, 3000, [](View v) {
        Index fresh;
        fresh.apply(v, 1);
    });
}
