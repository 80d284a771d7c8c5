// Section 8, chunks: Packer (in) and ChunkReader (out), also where the server misbehaves.

namespace {

/// The object that holds a chunk, as the index says; its first place.
std::string pack_holding(Repository& repo, const ChunkId& id) {
    auto places = repo.index.places(id);
    return places.empty() ? ""
                          : object_name(Name::packs, repo.index.pack(repo.index.frame(places[0].frame)).name);
}
/// Where the chunk's frame begins in that object.
size_t frame_offset(Repository& repo, const ChunkId& id) {
    return repo.index.frame(repo.index.places(id).at(0).frame).offset;
}

std::set<std::string> packs_of(Repository& repo, const std::vector<ChunkId>& ids) {
    std::set<std::string> names;
    for (auto& id : ids) names.insert(pack_holding(repo, id));
    return names;
}

/// A repository with some chunks in packs of a run that is over.
struct Stored {
    explicit Stored(size_t number, size_t largest, int copies = 1)
        : store(new_repository()), chunks(sample_chunks(number, largest, number)) {
        for (int i = 0; i < copies; ++i) ids = store_chunks(*open_repository(store), chunks, {}, i > 0);
    }
    TestStore store;
    std::vector<Bytes> chunks;
    std::vector<ChunkId> ids;
};

/// Records that condemn every pack there is, as a prune of another client would write them.
Bytes condemn_all(const TestStore& store) {
    Bytes all;
    for (auto& name : store.names("packs")) {
        auto one = condemned_record(*parse_hash(name.substr(6)));
        all.insert(all.end(), one.begin(), one.end());
    }
    return all;
}

bool has_text(const std::vector<Bytes>& where, View what) {
    return std::ranges::any_of(
        where, [&](auto& w) { return std::search(w.begin(), w.end(), what.begin(), what.end()) != w.end(); });
}

} // namespace

TEST_CASE("chunks: what goes in comes out, in the same run and the next") {
    TestStore store = new_repository();
    auto chunks = sample_chunks(150, 500'000, 1); // about 37 MB: several packs
    chunks.push_back({});                         // an empty one
    chunks.push_back(Bytes(kChunkMax));           // zeros, the largest there is
    chunks.push_back(noise(kChunkMax, 99));
    std::vector<ChunkId> ids;
    {
        auto repo = open_repository(store);
        Packer packer(*repo, 3, kCheckpoint);
        size_t raw = 0;
        for (auto& c : chunks) {
            ids.push_back(packer.put(Kind::data, c));
            raw += c.size();
            CHECK(ids.back() == repo->keys.hasher()(c));
        }
        CHECK(packer.new_bytes == raw);
        for (auto& c : chunks) packer.put(Kind::data, c); // a second time: nothing new
        CHECK(packer.new_bytes == raw);
        packer.flush();
        size_t packs = store.names("packs").size();
        CHECK(packs >= 3);
        CHECK(store.names("index").size() == 1); // I2: packs first
        CHECK(unreadable_chunks(*repo, ids, chunks) == 0);
        packer.checkpoint({});
        CHECK(store.names("index").size() == 2);
        packer.checkpoint({});
        CHECK(store.names("index").size() == 2); // nothing new
        uint64_t stored = 0;
        for (auto& [name, bytes] : store.objects) stored += bytes.size();
        CHECK(repo->store.work.stored >= stored - 4096); // but for what init wrote
        CHECK(repo->store.work.stored <= stored);
        for (auto& name : store.names("packs")) {
            auto& bytes = store.objects.at(name);
            CHECK(name == object_name(Name::packs, sha256(bytes))); // I1
            CHECK(bytes.size() <= kPackMax);
            CHECK(bytes.size() == padme(bytes.size()));
            auto opened = open_object(repo->keys, kPackLabel, foreign(bytes), "a pack");
            for (auto& frame : opened.frames) CHECK(decompress(frame, kFrameMax).size() <= kFrameMax);
        }
    }
    auto repo = open_repository(store);
    CHECK(unreadable_chunks(*repo, ids, chunks) == 0);
    Packer packer(*repo, 1, kCheckpoint);
    int creates = store.creates;
    for (size_t i = 0; i < chunks.size(); ++i) CHECK(packer.put(Kind::data, chunks[i]) == ids[i]);
    packer.flush();
    packer.checkpoint({});
    CHECK(packer.new_bytes == 0);
    CHECK(store.creates.load() == creates);
    CHECK(store.on_create == nullptr);
}

TEST_CASE("chunks: nothing of them can be read on the server") {
    TestStore store = new_repository();
    auto secret = bytes_of("a text that compresses badly because it is short");
    auto repo = open_repository(store);
    auto ids = store_chunks(*repo, {secret}, snapshot_added(sample_snapshot(1)));
    std::vector<Bytes> all;
    for (auto& [name, bytes] : store.objects) all.push_back(bytes);
    CHECK(has_text({secret}, as_bytes("compresses")));
    CHECK_FALSE(has_text(all, as_bytes("compresses")));
    CHECK_FALSE(has_text(all, as_bytes("somebody"))); // the snapshot's user
    CHECK_FALSE(has_text(all, ids[0]));
}

TEST_CASE("chunks: data and trees lie in packs of their own, small chunks together in one frame") {
    TestStore store = new_repository();
    auto repo = open_repository(store);
    Packer packer(*repo, 2, kCheckpoint);
    std::vector<ChunkId> data, tree;
    for (uint64_t i = 0; i < 50; ++i) {
        data.push_back(packer.put(Kind::data, noise(1000, i)));
        tree.push_back(packer.put(Kind::tree, noise(1000, 1000 + i)));
    }
    auto s = sample_snapshot(1);
    packer.flush(&s);
    packer.checkpoint(snapshot_added(s));
    CHECK(packs_of(*repo, data).size() == 1);
    CHECK(packs_of(*repo, tree).size() == 1);
    CHECK(packs_of(*repo, data) != packs_of(*repo, tree));
    std::set<uint32_t> frames;
    for (auto& id : data) frames.insert(repo->index.places(id)[0].frame);
    CHECK(frames.size() == 1);
    // The snapshot's record rides with its tree, marked as such: packs/ alone tells everything.
    auto opened = open_object(repo->keys, kPackLabel,
                              foreign(store.objects.at(*packs_of(*repo, tree).begin())), "a pack");
    REQUIRE(opened.table.size() == 2);
    size_t at = opened.table[0].kind == Kind::snapshot ? 0 : 1; // compressed side by side
    CHECK(opened.table[at].kind == Kind::snapshot);
    CHECK(opened.table[1 - at].kind == Kind::tree);
    CHECK(shown(decode_snapshot(decompress(opened.frames[at], kFrameMax))) == shown(s));
}

TEST_CASE("chunks: frames lie in a pack in the order in which they were filled") {
    // Compressing them side by side must not shuffle them: neighbours would no longer be read in
    // one go.
    TestStore store = new_repository();
    std::vector<Bytes> chunks;
    for (uint64_t i = 0; i < 6; ++i) {
        auto slow = noise(kChunkMax, i); // a small alphabet takes the compressor long, zeros no time
        for (auto& b : slow) b &= 15;
        chunks.push_back(std::move(slow));
        chunks.push_back(Bytes(kDataFrame, uint8_t(i)));
    }
    auto ids = store_chunks(*open_repository(store), chunks);
    auto repo = open_repository(store);
    size_t out_of_order = 0;
    for (size_t i = 1; i < ids.size(); ++i)
        out_of_order += pack_holding(*repo, ids[i - 1]) == pack_holding(*repo, ids[i]) &&
                        frame_offset(*repo, ids[i]) <= frame_offset(*repo, ids[i - 1]);
    CHECK(out_of_order == 0);
}

TEST_CASE("chunks: very many very small ones") {
    TestStore store = new_repository();
    std::vector<Bytes> chunks;
    for (uint32_t i = 0; i < kFrameChunks + 5000; ++i)
        chunks.push_back({uint8_t(i), uint8_t(i >> 8), uint8_t(i >> 16)});
    auto ids = store_chunks(*open_repository(store), chunks);
    auto repo = open_repository(store);
    CHECK(repo->index.relies(ids));
    CHECK(read_chunk(*repo, ids.front()) == chunks.front());
    CHECK(read_chunk(*repo, ids.back()) == chunks.back());
    CHECK(unreadable_chunks(*repo, {ids.begin() + 60'000, ids.begin() + 60'500},
                            {chunks.begin() + 60'000, chunks.begin() + 60'500}) == 0);
}

TEST_CASE("chunks: one larger than a table can say is refused before it is stored, not after") {
    TestStore store = new_repository();
    auto small = bytes_of("small");
    std::vector<ChunkId> ids;
    try {
        ids = store_chunks(*open_repository(store), {small, Bytes(kChunkMax + 1)});
    } catch (const Error&) {
        ids = store_chunks(*open_repository(store), {small});
    }
    Captured said;
    auto repo = open_repository(store);
    CHECK(repo->doubts.empty()); // the segment can be read
    CHECK(repo->damage.empty());
    CHECK(repo->index.rely_on(ids.at(0)));
}

TEST_CASE("chunks: damage in a pack is found, whatever the damage is") {
    static const Stored made(40, 400'000);
    Stored s = made;
    auto repo = open_repository(s.store);
    auto pack = pack_holding(*repo, s.ids[0]);
    REQUIRE(pack != "");
    auto whole = s.store.objects.at(pack);
    REQUIRE(s.store.names("packs").size() == 1);
    // Frames are compressed side by side, so the first to be filled need not lie first.
    size_t frame = frame_offset(*repo, s.ids[0]), in_same_frame = 0;
    for (auto& id : s.ids) in_same_frame += frame_offset(*repo, id) == frame;
    REQUIRE(in_same_frame < s.ids.size());
    SUBCASE("a flipped bit costs its frame and no other") {
        s.store.objects[pack][frame + 1000] ^= 1;
        CHECK(unreadable_chunks(*repo, s.ids, s.chunks) == in_same_frame);
        CHECK_THROWS_AS(read_chunk(*repo, s.ids[0]), Corrupt);
        CHECK(read_chunk(*repo, s.ids.back()) == s.chunks.back());
    }
    SUBCASE("cut short under a run's eyes") {
        s.store.objects[pack].resize(kHead + 1000);
        CHECK(unreadable_chunks(*repo, s.ids, s.chunks) == s.ids.size());
    }
    SUBCASE("zeros") {
        std::ranges::fill(s.store.objects[pack], uint8_t(0));
        CHECK(unreadable_chunks(*repo, s.ids, s.chunks) == s.ids.size());
    }
    SUBCASE("gone while the run goes on") {
        s.store.objects.erase(pack);
        CHECK(unreadable_chunks(*repo, s.ids, s.chunks) == s.ids.size());
        CHECK_THROWS_AS(read_chunk(*repo, s.ids[0]), Corrupt);
    }
    SUBCASE("gone before the run: nothing relies on it") {
        s.store.objects.erase(pack);
        auto next = open_repository(s.store);
        CHECK(unreadable_chunks(*next, s.ids, s.chunks) == s.ids.size());
        CHECK_FALSE(next->index.rely_on(s.ids[0]));
        CHECK(store_chunks(*next, s.chunks) == s.ids); // sent again
        CHECK(unreadable_chunks(*open_repository(s.store), s.ids, s.chunks) == 0);
    }
    SUBCASE("hidden for a run: it costs nothing when it is back") {
        s.store.hidden.insert(pack);
        auto blind = open_repository(s.store);
        CHECK_FALSE(blind->index.rely_on(s.ids[0]));
        write_segment(*blind, snapshot_added(sample_snapshot(1)));
        s.store.hidden.clear();
        auto next = open_repository(s.store);
        CHECK(next->damage.empty());
        CHECK(next->index.relies(s.ids));
        CHECK(unreadable_chunks(*next, s.ids, s.chunks) == 0);
    }
    SUBCASE("a byte longer or shorter than the index says: nothing relies on it") {
        s.store.objects[pack].push_back(0);
        CHECK_FALSE(open_repository(s.store)->index.rely_on(s.ids[0]));
        s.store.objects[pack] = whole;
        s.store.objects[pack].pop_back();
        CHECK_FALSE(open_repository(s.store)->index.rely_on(s.ids[0]));
    }
    SUBCASE("frames swapped by the server") {
        std::vector<uint8_t> bytes = whole;
        auto& first = repo->index.frame(repo->index.places(s.ids[0])[0].frame);
        std::rotate(bytes.begin() + long(kHead), bytes.begin() + long(kHead + first.sealed),
                    bytes.end() - 1000);
        s.store.objects[pack] = bytes;
        CHECK(unreadable_chunks(*repo, s.ids, s.chunks) == s.ids.size());
    }
}

TEST_CASE("chunks: two packs swapped by the server are told apart though their lengths agree") {
    TestStore store = new_repository();
    auto one = noise(5000, 1), two = noise(5000, 2);
    auto repo = open_repository(store);
    auto a = store_chunks(*repo, {one}), b = store_chunks(*repo, {two});
    auto names = store.names("packs");
    REQUIRE(names.size() == 2);
    REQUIRE(store.objects.at(names[0]).size() == store.objects.at(names[1]).size());
    std::swap(store.objects.at(names[0]), store.objects.at(names[1]));
    CHECK_THROWS_AS(read_chunk(*repo, a[0]), Corrupt);
    CHECK_THROWS_AS(read_chunk(*repo, b[0]), Corrupt);
}

TEST_CASE("chunks: what a chunk's id says is the last word on what it holds") {
    // A pack that authenticates and an index that tells lies about it, as a broken client might
    // write.
    TestStore store = new_repository();
    auto repo = open_repository(store);
    auto wanted = noise(100, 1), other = noise(100, 2);
    auto hasher = repo->keys.hasher();
    auto id = hasher(wanted);
    auto store_as = [&](View content, uint32_t length) {
        Sealer sealer(repo->keys, kPackLabel);
        sealer.add({Kind::data, 0, {{id, length}}}, frame_of(content));
        write_segment(*repo, pack_added(put_pack(*repo, sealer)));
    };
    store_as(other, 100);
    CHECK_THROWS_AS(read_chunk(*open_repository(store), id), Corrupt);
    store_as(wanted, 99); // too short
    CHECK_THROWS_AS(read_chunk(*open_repository(store), id), Corrupt);
    store_as(wanted, 101); // beyond the frame's end
    CHECK_THROWS_AS(read_chunk(*open_repository(store), id), Corrupt);
    store_as(wanted, 100);
    CHECK(read_chunk(*open_repository(store), id) == wanted);
    store_as(other, 100); // the newest place lies, an older one does not
    CHECK(read_chunk(*open_repository(store), id) == wanted);
}

TEST_CASE("chunks: a second place serves where the first is damaged") {
    static const Stored made(40, 200'000, 2);
    Stored s = made;
    auto repo = open_repository(s.store);
    REQUIRE(s.store.names("packs").size() == 2);
    for (auto& id : s.ids) CHECK(repo->index.places(id).size() == 2);
    auto newest = packs_of(*repo, s.ids);
    REQUIRE(newest.size() == 1); // the newest place comes first
    auto whole = s.store.objects.at(*newest.begin());
    SUBCASE("flipped") {
        for (size_t at = kHead; at < whole.size(); at += 100'000)
            s.store.objects.at(*newest.begin())[at] ^= 1;
        CHECK(unreadable_chunks(*repo, s.ids, s.chunks) == 0);
    }
    SUBCASE("gone") {
        s.store.objects.erase(*newest.begin());
        CHECK(unreadable_chunks(*repo, s.ids, s.chunks) == 0);
    }
    SUBCASE("cut short") {
        s.store.objects.at(*newest.begin()).resize(100'000);
        CHECK(unreadable_chunks(*repo, s.ids, s.chunks) == 0);
    }
    SUBCASE("both") {
        for (auto& place : repo->index.places(s.ids[0])) {
            auto& f = repo->index.frame(place.frame);
            s.store.objects.at(object_name(Name::packs, repo->index.pack(f).name))[f.offset] ^= 1;
        }
        CHECK(unreadable_chunks(*repo, s.ids, s.chunks) > 0);
        CHECK_THROWS_AS(read_chunk(*repo, s.ids[0]), Corrupt);
    }
}

TEST_CASE("chunks: reads lie on a grid, so that frames do not show") {
    Stored s(40, 400'000);
    struct Watch : TestStore {
        explicit Watch(const TestStore& other) : TestStore(other) {}
        Bytes read(const std::string& name, uint64_t offset, size_t length) override {
            if (name.starts_with("packs/")) {
                std::lock_guard lock(mutex);
                reads_seen.push_back({offset, offset + length, objects.at(name).size()});
            }
            return TestStore::read(name, offset, length);
        }
        std::mutex mutex;
        std::vector<std::array<uint64_t, 3>> reads_seen;
    } store(s.store);
    auto repo = open_repository(store);
    CHECK(unreadable_chunks(*repo, s.ids, s.chunks) == 0);
    CHECK(store.reads_seen.size() > 1);
    for (auto& seen : store.reads_seen) {
        uint64_t begin = seen[0], end = seen[1], size = seen[2];
        INFO(begin, " to ", end, " of ", size);
        CHECK(begin % kReadAlign == 0);
        CHECK((end % kReadAlign == 0 || end == size));
    }
}

TEST_CASE("chunks: frames that lie together are read in one go, for many users at once") {
    Stored s(120, 400'000); // about 24 MB
    auto repo = open_repository(s.store);
    TaskPool wire(2, 4), users(3, 200);
    ChunkReader reader(*repo, wire, 6 * MiB);
    std::atomic<size_t> wrong{0};
    s.store.reads = 0;
    for (int round = 0; round < 2; ++round)
        for (size_t i = 0; i < s.ids.size(); ++i) {
            // As a restore does: whoever writes the file is told first, then its chunks are asked
            // for.
            if (users.full()) reader.flush();
            users.push([&, i] {
                thread_local auto hasher = repo->keys.hasher();
                auto place = repo->index.places(s.ids[i]).front();
                wrong += !same(reader.get(s.ids[i], place, hasher), s.chunks[i]);
                reader.unpin(place.frame);
            });
            reader.pin(s.ids[i]);
        }
    reader.flush();
    users.drain();
    CHECK(wrong.load() == 0);
    INFO(s.store.reads, " reads");
    CHECK(s.store.reads.load() <= 40); // about 48 frames, each needed in both rounds
}

TEST_CASE("chunks: no more is read ahead than the budget of memory allows") {
    Stored s(60, 400'000); // about 12 MB
    auto repo = open_repository(s.store);
    TaskPool wire(2, 4);
    constexpr size_t budget = 5 * MiB;
    ChunkReader reader(*repo, wire, budget);
    std::atomic<size_t> pinned{0};
    auto planner = std::async(std::launch::async, [&] {
        for (auto& id : s.ids) {
            reader.pin(id);
            ++pinned;
        }
        reader.flush();
    });
    CHECK(planner.wait_for(std::chrono::milliseconds(200)) == std::future_status::timeout); // nobody unpins
    std::map<uint32_t, size_t> frames;
    for (size_t i = 0; i < pinned; ++i) {
        auto frame = repo->index.places(s.ids[i])[0].frame;
        frames[frame] = repo->index.frame(frame).raw;
    }
    size_t bytes = 0;
    for (auto& [frame, raw] : frames) bytes += raw;
    INFO(frames.size(), " frames, ", bytes, " bytes");
    CHECK(bytes <= budget);
    CHECK(bytes > budget / 2);
    auto hasher = repo->keys.hasher();
    size_t wrong = 0;
    for (size_t i = 0; i < s.ids.size(); ++i) {
        auto place = repo->index.places(s.ids[i]).front();
        wrong += !same(reader.get(s.ids[i], place, hasher), s.chunks[i]);
        reader.unpin(place.frame);
    }
    planner.get();
    CHECK(wrong == 0);
}

TEST_CASE("chunks: a user that gave up before its chunk was asked for blocks nobody") {
    TestStore store = new_repository();
    auto repo = open_repository(store);
    std::vector<Bytes> chunks; // each fills a frame
    for (uint64_t i = 0; i < 4; ++i) chunks.push_back(noise(kDataFrame, i));
    auto ids = store_chunks(*repo, chunks);
    auto place = [&](size_t i) { return repo->index.places(ids[i]).at(0); };
    TaskPool wire(1, 4);
    ChunkReader reader(*repo, wire, kDataFrame + 1000); // room for one
    bool right = false;
    auto ended = [&](std::future<void>& f) { // what hangs is woken
        bool in_time = f.wait_for(std::chrono::seconds(3)) == std::future_status::ready;
        if (!in_time) reader.abort();
        try {
            f.get();
        } catch (const Error&) {
        }
        return in_time;
    };
    auto read_third = [&] {
        return std::async(std::launch::async, [&] {
            auto hasher = repo->keys.hasher();
            right = same(reader.read(ids[2], hasher), chunks[2]);
        });
    };
    SUBCASE("before it was pinned") {
        auto user = std::async(std::launch::async, [&] { reader.unpin(place(0).frame); });
        std::this_thread::sleep_for(std::chrono::milliseconds(30));
        reader.pin(ids[0]);
        reader.flush();
        CHECK(ended(user));
    }
    SUBCASE("while its pin waited for room") {
        reader.pin(ids[0]);
        auto second = std::async(std::launch::async, [&] { reader.pin(ids[1]); });
        CHECK(second.wait_for(std::chrono::milliseconds(100)) == std::future_status::timeout); // no room
        auto user = std::async(std::launch::async, [&] { reader.unpin(place(1).frame); }); // a full disk, say
        std::this_thread::sleep_for(std::chrono::milliseconds(30));
        auto hasher = repo->keys.hasher();
        CHECK(same(reader.get(ids[0], place(0), hasher), chunks[0]));
        reader.unpin(place(0).frame);
        CHECK(ended(second));
        CHECK(ended(user));
    }
    INFO("what was pinned for a user that is gone must not count for ever");
    auto third = read_third();
    CHECK(ended(third));
    CHECK(right);
}

TEST_CASE("chunks: a reader that is given up wakes everybody") {
    Stored s(4, 10'000);
    auto repo = open_repository(s.store);
    TaskPool wire(1, 4);
    ChunkReader reader(*repo, wire, kReadAhead);
    auto waiting = std::async(std::launch::async, [&] {
        auto hasher = repo->keys.hasher();
        reader.get(s.ids[0], repo->index.places(s.ids[0])[0], hasher); // never pinned
    });
    CHECK(waiting.wait_for(std::chrono::milliseconds(50)) == std::future_status::timeout);
    reader.abort();
    CHECK_THROWS_AS(waiting.get(), Interrupted);
    CHECK_THROWS_AS(reader.pin(s.ids[1]), Interrupted);
}

TEST_CASE("chunks: a write whose outcome nobody knows is made again under another name") {
    for (auto fault : {TestStore::Fault::absent, TestStore::Fault::torn, TestStore::Fault::whole}) {
        INFO("fault ", int(fault));
        for (bool append_only : {false, true}) {
            TestStore store = new_repository();
            store.append_only = append_only; // what was torn stays
            std::vector<Bytes> chunks;       // a frame each: what fails is sent again in halves
            for (uint64_t i = 0; i < 12; ++i) chunks.push_back(noise(kDataFrame, i));
            std::vector<ChunkId> ids;
            std::mutex mutex;
            std::set<std::string> tried;
            int twice = 0, count = 0, faults = 0;
            {
                auto repo = open_repository(store);
                store.on_create = [&](const std::string& name) {
                    std::lock_guard lock(mutex);
                    twice += !tried.insert(name).second;
                    bool fails = ++count % 3 == 1; // packs and segments in turn
                    faults += fails;
                    return fails ? fault : TestStore::Fault::none;
                };
                for (size_t i = 0; i < chunks.size(); i += 3) // four runs' worth of packs and segments
                    for (auto& id : store_chunks(*repo, {chunks[i], chunks[i + 1], chunks[i + 2]},
                                                 snapshot_added(sample_snapshot(1 + i / 3))))
                        ids.push_back(id);
                CHECK(unreadable_chunks(*repo, ids, chunks) == 0);
            }
            CHECK(faults >= 4);
            CHECK(twice == 0);
            store.on_create = nullptr;
            Captured said;
            auto repo = open_repository(store);
            CHECK(unreadable_chunks(*repo, ids, chunks) == 0);
            CHECK(repo->index.relies(ids));
            CHECK(snapshot_seeds(*repo, 9) == seeds_up_to(4));
            CHECK(repo->damage.empty());
            CHECK(repo->doubts.empty());
        }
    }
}

TEST_CASE("chunks: every single create may be the one that nobody knows about") {
    TestStore base = new_repository();
    base.append_only = true; // what was torn stays
    auto repo = open_repository(base);
    // In one repository, one after the other: each round stores something new, and its k-th create
    // fails.
    uint64_t round = 0;
    std::vector<ChunkId> ids;
    std::vector<Bytes> all;
    for (auto fault : {TestStore::Fault::absent, TestStore::Fault::torn, TestStore::Fault::whole})
        for (int k = 1; k <= 3; ++k) { // the data's pack, the tree's pack, the segment
            ++round;
            std::atomic<int> count{0};
            base.on_create = [&](const std::string&) {
                return ++count == k ? fault : TestStore::Fault::none;
            };
            Packer packer(*repo, 1, kCheckpoint);
            auto data = noise(3000, 100 + round), tree = noise(2000, 200 + round);
            ids.push_back(packer.put(Kind::data, data));
            all.push_back(data);
            ids.push_back(packer.put(Kind::tree, tree));
            all.push_back(tree);
            auto s = sample_snapshot(round);
            packer.flush(&s);
            packer.checkpoint(snapshot_added(s));
            INFO("round ", round, ", fault ", int(fault), " at ", k);
            CHECK(count.load() >= 4);
        }
    base.on_create = nullptr;
    Captured said;
    auto again = open_repository(base);
    CHECK(snapshot_seeds(*again, 20) == seeds_up_to(9));
    CHECK(unreadable_chunks(*again, ids, all) == 0);
    CHECK(again->damage.empty());
    CHECK(again->doubts.empty());
}

TEST_CASE("chunks: a server that is full ends the run, and what it named before is still good") {
    Stored s(5, 10'000);
    {
        auto repo = open_repository(s.store);
        s.store.on_create = [](const std::string&) { return TestStore::Fault::refused; };
        CHECK_THROWS_AS(store_chunks(*repo, sample_chunks(3, 10'000, 99)), Error);
        s.store.on_create = nullptr;
    }
    auto repo = open_repository(s.store);
    CHECK(unreadable_chunks(*repo, s.ids, s.chunks) == 0);
    CHECK(repo->damage.empty());
    CHECK(repo->doubts.empty());
}

TEST_CASE("chunks: what is condemned while a run relies on it is copied before it is named (I5)") {
    Stored s(30, 200'000);
    auto repo = open_repository(s.store), prune = open_repository(s.store);
    repo->listing_lasts = {}; // as if the run had taken long
    auto condemned = s.store.names("packs");
    Packer packer(*repo, 2, kCheckpoint);
    std::vector<ChunkId> relied;
    std::vector<Bytes> relied_chunks;
    for (size_t i = 0; i < 10; ++i) {
        relied.push_back(packer.put(Kind::data, s.chunks[i])); // is there: not sent
        relied_chunks.push_back(s.chunks[i]);
    }
    CHECK(packer.new_bytes == 0);
    bool with_new = false;
    SUBCASE("a run that brings something new") { with_new = true; }
    SUBCASE("a run that brings nothing but its snapshot") {}
    auto fresh = noise(5000, 77);
    ChunkId fresh_id{};
    if (with_new) fresh_id = packer.put(Kind::data, fresh);
    packer.flush();
    write_segment(*prune, condemn_all(s.store));
    packer.checkpoint(snapshot_added(sample_snapshot(1)));

    // The condemned packs go, as they may after the grace period.
    for (auto& name : condemned) s.store.objects.erase(name);
    auto next = open_repository(s.store);
    CHECK(snapshot_seeds(*next, 3) == seeds_up_to(1));
    CHECK(next->index.relies(relied));
    CHECK(unreadable_chunks(*next, relied, relied_chunks) == 0);
    if (with_new) CHECK(read_chunk(*next, fresh_id) == fresh);
    CHECK_FALSE(next->index.rely_on(s.ids[20])); // nobody needed this one
    CHECK(next->damage.empty());
}

TEST_CASE("chunks: what is condemned before a run begins is sent again by it") {
    Stored s(10, 50'000);
    write_segment(*open_repository(s.store), condemn_all(s.store));
    auto condemned = s.store.names("packs");
    auto repo = open_repository(s.store);
    CHECK(store_chunks(*repo, s.chunks) == s.ids);
    for (auto& name : condemned) s.store.objects.erase(name);
    CHECK(unreadable_chunks(*open_repository(s.store), s.ids, s.chunks) == 0);
}

TEST_CASE("chunks: what another run stored meanwhile costs at most a second copy") {
    TestStore store = new_repository();
    auto chunks = sample_chunks(10, 50'000, 3);
    auto a = open_repository(store), b = open_repository(store);
    auto ids = store_chunks(*a, chunks);
    CHECK(store_chunks(*b, chunks) == ids);
    a->refresh();
    CHECK(a->index.relies(ids));
    auto c = open_repository(store);
    CHECK(unreadable_chunks(*c, ids, chunks) == 0);
    CHECK(c->index.places(ids[0]).size() == 2);
}

TEST_CASE("chunks: a run that is interrupted, or that the server refuses something, keeps what is durable "
          "and gives up the rest") {
    std::unique_ptr<Error> why;
    bool keeps = true;
    SUBCASE("interrupted") { why = std::make_unique<Interrupted>(); }
    SUBCASE("refused") {
        why = std::make_unique<Error>("full");
        why->undone = true;
    }
    SUBCASE("refused, and left half there: a segment would be, too") {
        why = std::make_unique<Error>("full, and append-only");
        keeps = false;
    }
    TestStore store = new_repository();
    std::vector<Bytes> chunks;
    for (uint64_t i = 0; i < 40; ++i) chunks.push_back(noise(MiB, i));
    std::vector<ChunkId> ids;
    {
        auto repo = open_repository(store);
        Packer packer(*repo, 1, kCheckpoint);
        for (auto& c : chunks) ids.push_back(packer.put(Kind::data, c));
        packer.salvage(*why);
        g_stop_by = 0;
    }
    auto repo = open_repository(store);
    size_t kept = 0;
    for (auto& id : ids) kept += repo->index.rely_on(id);
    INFO(kept, " of 40 chunks kept in ", store.names("packs").size(), " packs");
    CHECK((keeps ? kept >= 15 : kept == 0));
    CHECK(repo->damage.empty());
    CHECK(repo->doubts.empty());
    size_t unreadable = 0;
    for (size_t i = 0; i < ids.size(); ++i)
        if (repo->index.rely_on(ids[i])) unreadable += read_chunk(*repo, ids[i]) != chunks[i];
    CHECK(unreadable == 0);
}

TEST_CASE("chunks: checkpoints are written as often as asked") {
    TestStore store = new_repository();
    auto repo = open_repository(store);
    Packer packer(*repo, 1, std::chrono::seconds(0));
    auto id = packer.put(Kind::data, noise(1000, 1));
    packer.maybe_checkpoint();
    CHECK(store.names("index").size() == 1); // nothing is durable yet
    packer.flush();
    packer.maybe_checkpoint();
    CHECK(store.names("index").size() == 2);
    CHECK(open_repository(store)->index.rely_on(id));
    Packer patient(*repo, 1, kCheckpoint);
    patient.put(Kind::data, noise(1000, 2));
    patient.flush();
    patient.maybe_checkpoint();
    CHECK(store.names("index").size() == 2);
}
