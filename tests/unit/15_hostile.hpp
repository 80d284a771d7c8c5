// Whole runs against a repository that somebody has prepared: a client that holds the key and seals what it
// likes, a server that alters, swaps, hides and replays. What comes out is right, or an error that leads to
// exit code 5; never wrong data, a write outside of the destination, a crash, a hang, or memory without bound.

namespace {

// ---- verbs, as the command line runs them --------------------------------------------------------------

/// As main(): what an Error leads to. Any other exception is a defect and ends the test.
template <class F> Exit exit_of(F f) {
    try {
        return f();
    } catch (const Error& e) {
        say(e.what());
        return e.exit;
    }
}
Exit verdict_of(const Repository& repo, bool damaged) {
    return damaged || !repo.damage.empty() || !repo.doubts.empty() ? Exit::damaged : Exit::ok;
}

/// A verb that is run on a store; `dir` is a directory of its own, in which it may write to "dest".
struct Deed {
    const char* name;
    std::function<Exit(Store&, const support::fs::path& dir)> run;
};
constexpr const char *kHost = "host", *kSource = "/source"; // of sample_snapshot()

Exit restore_into(Store& store, const support::fs::path& dest, bool overwrite = false) {
    auto repo = open_repository(store);
    auto all = repo->snapshots();
    if (all.empty()) return verdict_of(*repo, false);
    RestoreOptions o;
    o.connections = 2;
    o.overwrite = overwrite;
    RestoreResult r;
    Restore(*repo, *all[0], o).run(dest.string(), r);
    return worse(r.kept + r.failed > 0 ? Exit::partial : Exit::ok, verdict_of(*repo, r.damaged > 0));
}
Exit list_all(Store& store) {
    auto repo = open_repository(store);
    auto all = repo->snapshots();
    bool damaged = false;
    ListOptions o;
    o.recursive = o.details = true;
    if (!all.empty()) Lister(*repo, *all[0], o).run(damaged);
    return verdict_of(*repo, damaged);
}
Exit check_all(Store& store) {
    auto repo = open_repository(store);
    CheckResult r;
    Sample sample;
    Check(*repo, 2).run(&sample, true, r);
    return verdict_of(*repo, r.errors > 0);
}
Exit back_up(Store& store, const support::fs::path& dir) {
    support::write_file(dir / "src/file", "content");
    auto repo = open_repository(store);
    BackupOptions o;
    o.connections = 1;
    o.allow_shrink = true;
    Stream stream;
    stream.name = "stream";
    Fd from(::open((dir / "src/file").c_str(), O_RDONLY));
    stream.fd = from.get();
    Backup(*repo, o).run(kSource, Scene::record(kHost), &stream); // compares with what somebody prepared
    return repo->damage.empty() ? Exit::ok : Exit::damaged;
}
Exit repair(Store& store) {
    auto repo = open_repository(store);
    auto r = Repair(*repo, 2).run();
    repo->index.see(store.list("packs"));
    CheckResult left;
    Check(*repo, 2).run(nullptr, true, left);
    return left.errors + r.unreadable > 0 ? Exit::damaged : Exit::ok;
}
const std::vector<Deed>& deeds() {
    static const std::vector<Deed> all{
        {"restore", [](Store& s, auto& dir) { return restore_into(s, dir / "dest"); }},
        {"restore --overwrite", [](Store& s, auto& dir) { return restore_into(s, dir / "dest", true); }},
        {"ls", [](Store& s, auto&) { return list_all(s); }},
        {"check", [](Store& s, auto&) { return check_all(s); }},
        {"backup", [](Store& s, auto& dir) { return back_up(s, dir); }},
        {"prune", [](Store& s, auto&) { return prune(s), Exit::ok; }},
        {"repair", [](Store& s, auto&) { return repair(s); }},
    };
    return all;
}

// ---- within bounds ---------------------------------------------------------------------------------------

constexpr long kMemoryMax = 300 * 1024; // KiB
long peak_kib() {
    struct rusage use;
    getrusage(RUSAGE_SELF, &use);
    return use.ru_maxrss;
}
/// How `f` ends in a process of its own with the program's settings: "" if all is well, else what is wrong:
/// a crash, a hang, too much memory, an exception that is no Error, or an exit code that is not among these.
template <class F> std::string bounded(F f, const std::set<Exit>& allowed, unsigned seconds = 30) {
    return in_child(seconds, [&] {
        prepare_process();
        Captured said, out(std::cout);
        long before = peak_kib();
        Exit exit = exit_of(f);
        long took = peak_kib() - before;
        if (took > kMemoryMax) throw Error(text("takes ", took / 1024, " MiB; ends with ", int(exit), ": ", said.text().substr(0, 200)));
        if (!allowed.contains(exit)) throw Error(text("ends with ", int(exit), ": ", said.text().substr(0, 500)));
    });
}
/// Every verb on a copy of what somebody prepared: none but these exit codes, nothing outside of "dest".
void check_deeds(const TestStore& prepared, const std::set<Exit>& allowed, const std::set<std::string>& only = {}) {
    for (auto& deed : deeds()) {
        if (!only.empty() && !only.contains(deed.name)) continue;
        INFO(std::string(deed.name));
        support::TempDir dir;
        support::write_file(dir / "outside/file", "as it was");
        auto wrong = bounded([&] {
            TestStore store(prepared);
            return deed.run(store, dir.path());
        }, allowed);
        CHECK(wrong == "");
        CHECK(support::read_file(dir / "outside/file") == "as it was");
        CHECK(support::files_below(dir / "outside").size() == 1);
        for (auto& e : support::fs::directory_iterator(dir.path()))
            CHECK(std::set<std::string>{"dest", "outside", "src"}.contains(e.path().filename().string()));
    }
}

// ---- a client that holds the key and seals what it likes -------------------------------------------------

/// A segment of these frames, each of which is sealed as it is.
void put_segment(TestStore& store, const std::vector<Bytes>& raw_frames) {
    auto repo = open_repository(store);
    Label label = kSegmentLabel;
    label.seq = 77;
    Sealer sealer(label, repo->keys.index);
    for (Bytes raw : raw_frames) {
        auto [head, body] = compress(raw);
        FrameInfo info;
        info.kind = Kind::records;
        sealer.add(info, head, body);
    }
    auto object = sealer.finish();
    store.put(text("index/0000004d-", hex(object.name)), object.bytes);
}
/// One record, cut into frames as large as can be.
void put_record_of(TestStore& store, Record type, const Bytes& body) {
    auto whole = record(type, body);
    std::vector<Bytes> frames;
    for (View rest = whole; !rest.empty(); rest = rest.subspan(frames.back().size())) {
        View part = rest.first(std::min(rest.size(), kFrameMax));
        frames.emplace_back(part.begin(), part.end());
    }
    put_segment(store, frames);
}
Bytes repeated(const Bytes& what, size_t size) {
    Bytes all;
    all.reserve(size + what.size());
    while (all.size() < size) all.insert(all.end(), what.begin(), what.end());
    return all;
}
/// A snapshot record with these tags, users and ids of the list of its tree, the first two as raw bytes.
Bytes raw_snapshot(View tags, View users, const std::vector<ChunkId>& tree) {
    Writer w;
    w.raw(noise_array<16>(1));
    w.u64(1);
    for (auto* s : {kHost, "somebody", kSource, "1"}) w.string(s);
    w.raw(tags);
    w.u8(0);
    for (int i = 0; i < 7; ++i) w.varint(0);
    w.raw(users);
    w.varint(0);
    w.varint(tree.size());
    for (auto& id : tree) w.raw(id);
    return w.take();
}
const Bytes kNone1{0}; // a list of nothing

/// A pack of these frames: what they say they hold, and what is in them, before it is compressed.
PackInfo put_pack(TestStore& store, std::vector<std::pair<FrameInfo, Bytes>> frames) {
    auto repo = open_repository(store);
    Sealer sealer(kPackLabel, repo->keys.pack);
    std::map<Bytes, FramePlain> done; // many are the same
    for (auto& [info, raw] : frames) {
        if (!done.contains(raw)) {
            Bytes copy = raw;
            done[raw] = compress(copy);
        }
        sealer.add(info, done[raw].head, done[raw].body);
    }
    auto object = sealer.finish();
    store.put(object_name("packs", object.name), object.bytes);
    PackInfo p;
    p.name = object.name;
    p.salt = object.salt;
    p.size = object.bytes.size();
    p.table = std::move(object.table);
    return p;
}

} // namespace

TEST_CASE("hostile client: what unfolds to very much in the index is refused, in bounded memory") {
    TestStore store = new_repository();
    store_snapshot(store, 3, {{"a", {noise(500, 1)}}});
    SUBCASE("records without end") {
        put_segment(store, std::vector<Bytes>(60, repeated(record(Record::snapshot_forgotten, Bytes(16)), kFrameMax - 100)));
    }
    SUBCASE("a record of many tags") {
        Writer tags;
        tags.varint(30 * MiB);
        tags.raw(Bytes(30 * MiB));
        put_record_of(store, Record::snapshot_added, raw_snapshot(tags.view(), kNone1, {}));
    }
    SUBCASE("a record of many users") {
        Writer users;
        users.varint(6'000'000);
        for (uint32_t i = 0; i < 6'000'000; ++i) users.varint(i), users.varint(0);
        put_record_of(store, Record::snapshot_added, raw_snapshot(kNone1, users.view(), {}));
    }
    SUBCASE("a pack of many frames that hold nothing") {
        Writer pack;
        pack.raw(hash_of(1));
        pack.raw(hash_of(2));
        pack.varint(kPackMax);
        pack.varint(4'000'000);
        pack.raw(Bytes(12'000'000));
        put_record_of(store, Record::pack_added, pack.take());
    }
    SUBCASE("packs of many frames that hold nothing") {
        Bytes records;
        for (uint64_t i = 0; i < 9; ++i) {
            Writer pack;
            pack.raw(hash_of(i));
            pack.raw(hash_of(2));
            pack.varint(kPackMax);
            pack.varint(4'000'000);
            pack.raw(Bytes(12'000'000));
            auto r = record(Record::pack_added, pack.view());
            records.insert(records.end(), r.begin(), r.end());
        }
        std::vector<Bytes> frames;
        for (View rest = records; !rest.empty(); rest = rest.subspan(frames.back().size())) {
            View part = rest.first(std::min(rest.size(), kFrameMax));
            frames.emplace_back(part.begin(), part.end());
        }
        put_segment(store, frames);
    }
    check_deeds(store, {Exit::ok, Exit::damaged}, {"restore", "backup"});
}

TEST_CASE("hostile client: a tree that unfolds to very much is refused, in bounded memory") {
    TestStore store = new_repository();
    auto list_one = [&](const Bytes& part, size_t times) { // the same part of a tree, and the same list, many times
        auto repo = open_repository(store);
        Packer packer(*repo, 1, kCheckpoint);
        auto id = packer.put(Kind::tree, part);
        Writer list;
        while (list.size() < (times > 1 ? kChunkMax - 32 : 1)) list.raw(id), list.string("");
        auto s = sample_snapshot(1);
        s.tree = std::vector<ChunkId>(times, packer.put(Kind::tree, list.view()));
        packer.flush();
        packer.checkpoint(snapshot_added(s));
    };
    auto entry = [&](unsigned flags, auto rest) {
        Writer w;
        w.varint(flags);
        w.varint(0);
        w.string("a");
        for (int i = 0; i < 3; ++i) w.varint(0); // mode, uid, gid
        for (int i = 0; i < 5; ++i) w.zigzag(0); // times, inode
        rest(w);
        return w.take();
    };
    SUBCASE("a list that is named a thousand times") { list_one(encode_entries({all_sorts()[0]}), 1000); }
    SUBCASE("as many attributes as there are bytes") {
        list_one(entry(tree_flags::xattrs, [](Writer& w) {
            w.varint(kChunkMax - 100);
            w.raw(Bytes(kChunkMax - 100));
        }), 1);
    }
    SUBCASE("empty attributes in all of it") {
        list_one(entry(tree_flags::xattrs, [](Writer& w) {
            w.varint((kChunkMax - 100) / 2);
            w.raw(Bytes(kChunkMax - 50));
        }), 1);
    }
    SUBCASE("as many holes as there are bytes") {
        list_one(entry(tree_flags::holes, [](Writer& w) {
            w.varint(1);
            w.varint((kChunkMax - 100) / 2);
            w.raw(Bytes(kChunkMax - 100));
        }), 1);
    }
    check_deeds(store, {Exit::ok, Exit::damaged}, {"restore", "backup", "check", "ls"});
}

TEST_CASE("hostile client: frames that unfold to more than they say are refused, in bounded memory") {
    TestStore store = new_repository();
    std::vector<std::pair<FrameInfo, Bytes>> frames;
    auto bomb = Bytes(kFrameMax - 1);
    for (uint64_t i = 0; i < 200; ++i) {
        FrameInfo info;
        info.chunks = {{chunk_id(i), 8}};
        frames.emplace_back(info, bomb);
    }
    auto pack = put_pack(store, std::move(frames));
    auto repo = open_repository(store);
    Packer packer(*repo, 1, kCheckpoint);
    Chunker chunker(repo->keys.gear);
    TreeWriter tree(packer, chunker, false);
    tree.add(all_sorts()[0]);
    for (uint64_t i = 0; i < 200; ++i) {
        auto e = file(text("a", 100 + i), 0);
        e.chunks = {chunk_id(i)};
        e.size = 8;
        tree.add(e);
    }
    auto s = sample_snapshot(1);
    s.tree = tree.finish();
    packer.flush();
    auto records = record(Record::pack_added, encode_pack(pack));
    auto added = snapshot_added(s);
    records.insert(records.end(), added.begin(), added.end());
    packer.checkpoint(records);
    check_deeds(store, {Exit::damaged}, {"restore", "check", "repair"});
}
