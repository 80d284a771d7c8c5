// Section 8, the repository: keys, segments that merge, what is lost and what is doubtful.

namespace {

void add_snapshot(Repository& repo, uint64_t seed) {
    repo.refresh();
    write_segment(repo, snapshot_added(sample_snapshot(seed)));
}

/// The name of the newest object in index/: their names begin with their numbers.
std::string newest_segment(const TestStore& store) { return store.names("index").back(); }

/// A record of a foreign, large kind, so that a segment is too large to be merged by the next ones.
Bytes bulk(size_t size) {
    Snapshot s = sample_snapshot(1000);
    s.source = string_of(noise(size, size)); // random, so that it does not shrink
    return snapshot_added(s);
}

} // namespace

TEST_CASE("repository: is made, opened and found empty") {
    support::TempDir dir;
    LocalStore store(dir / "new/repo");
    Repository::init(store, passphrase(), cheap(), 1, "test");
    CHECK(store.list_all({}).size() == 3);
    CHECK(store.list(Name::keys).size() == 1);
    CHECK(store.list(Name::index).size() == 1);
    CHECK(store.list(Name::packs).empty());
    for (auto d : {Name::keys, Name::index})
        for (auto& o : store.list(d))
            CHECK(sha256(inside(store.read(o.name, 0, o.size))) == o.name.hash); // I1
    auto repo = Repository::open(store, passphrase);
    CHECK(repo->snapshots().empty());
    CHECK(repo->damage.empty());
    CHECK(repo->doubts.empty());
    CHECK(store.list(Name::index).size() == 1); // opening writes nothing
}

TEST_CASE("repository: is not made where something is already") {
    support::TempDir dir;
    support::write_file(dir / "photo.jpg", "x");
    LocalStore store(dir.path());
    CHECK_NAMES(complaint([&] { Repository::init(store, passphrase(), cheap(), 1, "test"); }), "photo.jpg");
    CHECK(store.list_all({}).size() == 1);
    auto made = new_repository();
    auto before = made.objects;
    CHECK_THROWS_AS(Repository::init(made, passphrase(), cheap(), 1, "test"), Error);
    CHECK(made.objects == before);
}

TEST_CASE("repository: a wrong passphrase, a missing key, a damaged key") {
    auto store = new_repository();
    auto key = store.names("keys").at(0);
    auto open_with = [&](std::string_view words) {
        try {
            Repository::open(store, [&] { return Secret(words); });
            return Exit::ok;
        } catch (const Error& e) {
            return e.exit;
        }
    };
    SUBCASE("wrong passphrase") { CHECK(open_with("wrong") == Exit::passphrase); }
    SUBCASE("no key objects: the passphrase is not even asked for") {
        store.objects.erase(key);
        CHECK_THROWS_AS(Repository::open(store,
                                         []() -> Secret {
                                             FAIL("asked");
                                             return Secret();
                                         }),
                        NotThere);
        store.objects["keys/README"] = bytes_of("no key");
        CHECK_THROWS_AS(Repository::open(store,
                                         []() -> Secret {
                                             FAIL("asked");
                                             return Secret();
                                         }),
                        NotThere);
    }
    SUBCASE("no keys directory") {
        store.directories.erase("keys");
        store.objects.erase(key);
        CHECK_THROWS_AS(Repository::open(store,
                                         []() -> Secret {
                                             FAIL("asked");
                                             return Secret();
                                         }),
                        NotThere);
    }
    SUBCASE("damaged") {
        store.objects[key][100] ^= 1;
        CHECK(open_with("correct horse battery staple") == Exit::damaged);
    }
    SUBCASE("cut short") {
        store.objects[key].pop_back();
        CHECK(open_with("correct horse battery staple") == Exit::damaged);
    }
    SUBCASE("one of two is damaged: the other opens, a wrong passphrase may be the damaged one's") {
        store.objects[object_name(Name::keys, hash_of(1))] = noise(kKeySize, 1);
        CHECK(open_with("correct horse battery staple") == Exit::ok);
        CHECK(open_with("wrong") == Exit::damaged);
    }
    SUBCASE("more names than keys that are tried: what came later is passed over") {
        for (uint64_t i = 0; i < kKeysMax; ++i)
            store.objects[object_name(Name::keys, hash_of(i))] = noise(kKeySize, i);
        CHECK(open_with("correct horse battery staple") == Exit::ok);
        CHECK(open_with("wrong") == Exit::damaged); // one of those may have been meant
    }
    SUBCASE("a second passphrase, and a planted key for another master") {
        // The master key is not to be had from outside: two keys of one master, a segment of
        // nobody.
        auto master = secret_of(noise(32, 1));
        auto one = encode_key_object(master, Secret("one"), cheap(), 1, ""),
             two = encode_key_object(master, Secret("two"), cheap(), 1, "");
        auto planted = encode_key_object(secret_of(noise(32, 2)), Secret("one"), cheap(), 1, "");
        store.objects.clear();
        for (auto* k : {&one, &two}) store.objects[object_name(Name::keys, sha256(*k))] = *k;
        CHECK_NAMES(complaint([&] { Repository::open(store, [] { return Secret("two"); }); }), "no segment");
        CHECK(open_with("three") == Exit::passphrase);
        store.objects[object_name(Name::keys, sha256(planted))] = planted;
        CHECK_NAMES(complaint([&] { Repository::open(store, [] { return Secret("one"); }); }),
                    "different master keys");
    }
    SUBCASE("no segment") {
        auto only = store.names("index").at(0);
        store.objects.erase(only);
        CHECK(open_with("correct horse battery staple") == Exit::damaged);
    }
}

TEST_CASE("key object: one that does not read back as it was written is an error: nobody must rely on it") {
    TestStore store;
    store.directories = {"keys"};
    auto master = secret_of(noise(32, 1));
    auto other = encode_key_object(secret_of(noise(32, 2)), passphrase(), cheap(), 1, "");
    auto add = [&] {
        return complaint([&] { Repository::add_key(store, master, passphrase(), cheap(), 1, ""); });
    };
    CHECK(add() == "");
    SUBCASE("it opens no more") {
        store.on_read = [&](const std::string& name) { store.objects.at(name)[100] ^= 1; };
    }
    SUBCASE("it opens to another key") {
        store.on_read = [&](const std::string& name) { store.objects.at(name) = other; };
    }
    CHECK_NAMES(add(), "does not read back as it was written");
}

TEST_CASE("repository: a newer format stops the run before anything is written") {
    auto store = new_repository();
    auto future = store.objects.at(store.names("index").at(0));
    future[7] = 2;
    store.objects["index/00000007-" + hex(sha256(future))] = future;
    auto before = store.objects;
    CHECK_NAMES(complaint([&] { Repository::open(store, passphrase); }), "get a newer one");
    CHECK(store.objects == before);
}

TEST_CASE("repository: names that are none of ours are passed over") {
    auto store = new_repository();
    add_snapshot(*open_repository(store), 1);
    for (std::string name : {"README", "00000001", "-", "0000000x-", "zzzzzzzz-"})
        store.objects["index/" + name + (name.ends_with('-') ? hex(hash_of(1)) : "")] = bytes_of("x");
    store.objects["packs/tmp.123"] = bytes_of("x");
    store.objects["keys/.nfs0001"] = bytes_of("x");
    Captured said;
    auto repo = open_repository(store);
    CHECK(repo->snapshots().size() == 1);
    CHECK(repo->damage.empty());
    CHECK(repo->doubts.empty());
    CHECK(said.text() == "");
}

TEST_CASE("repository: many runs leave few segments, and every snapshot") {
    TestStore store = new_repository();
    size_t most = 0;
    uint64_t seed = 0;
    for (int run = 0; run < 60; ++run) {
        auto repo = open_repository(store);
        CHECK(repo->snapshots().size() == seed);
        for (int i = 0; i < 3; ++i) add_snapshot(*repo, ++seed); // two checkpoints and the end
        repo->remove_superseded();
        store.clock += kSettled;
        most = std::max(most, store.names("index").size());
    }
    auto repo = open_repository(store);
    repo->remove_superseded(); // those of the last run
    INFO("at most ", most, " segments during a run, ", store.names("index").size(), " at the end, for ", seed,
         " snapshots");
    CHECK(store.names("index").size() <= 8);
    CHECK(most <= 8 + 3 * 3);
    CHECK(repo->damage.empty());
    CHECK(repo->doubts.empty());
    CHECK(snapshot_seeds(*repo, 200) == seeds_up_to(180));
    CHECK(snapshot_seeds(*open_repository(store), 200) == seeds_up_to(180)); // without what was taken away
}

TEST_CASE("repository: a run's own merging is not deleted under the feet of others") {
    auto store = new_repository();
    auto repo = open_repository(store);
    for (uint64_t i = 1; i <= 5; ++i) add_snapshot(*repo, i);
    size_t before = store.names("index").size();
    CHECK(before == 6);
    repo->remove_superseded(); // nothing was superseded when this run began
    CHECK(store.names("index").size() == before);
    tidy_index(store);
    CHECK(store.names("index").size() < before);
}

TEST_CASE("repository: a large segment is left alone by small ones") {
    auto store = new_repository();
    {
        auto repo = open_repository(store);
        write_segment(*repo, bulk(200 * KiB));
        auto large = newest_segment(store);
        size_t size = store.objects.at(large).size();
        CHECK(size > 150 * KiB);
        for (uint64_t i = 1; i <= 20; ++i) {
            add_snapshot(*repo, i);
            CHECK(store.objects.at(newest_segment(store)).size() < 64 * KiB);
        }
        CHECK(snapshot_seeds(*repo, 30).empty()); // what a run wrote itself is not read back
    }
    auto repo = open_repository(store);
    CHECK(snapshot_seeds(*repo, 30) == seeds_up_to(20));
    CHECK(repo->snapshots().size() == 21);
}

TEST_CASE("repository: a segment that no reader would take is not written, and says so") {
    auto store = new_repository();
    auto repo = open_repository(store);
    add_snapshot(*repo, 1);
    auto before = store.objects;
    Bytes many;
    for (size_t i = 0; many.size() <= kSegmentMax; ++i) {
        auto one = bulk(kPathMax - i);
        many.insert(many.end(), one.begin(), one.end());
    }
    CHECK_THROWS_AS(write_segment(*repo, many), Error);
    CHECK(store.objects == before);
    add_snapshot(*repo, 2); // and it goes on with what fits
    auto again = open_repository(store);
    CHECK(again->damage.empty());
    CHECK(snapshot_seeds(*again, 10) == seeds_up_to(2));
}

TEST_CASE("repository: segments that would be too large together stay apart") {
    auto store = new_repository();
    auto repo = open_repository(store);
    // Small ones that hold much: it is the content that a reader bounds.
    constexpr uint64_t kEach = 16;
    uint64_t seed = 1;
    for (size_t all = 0; all <= kSegmentMax + 16 * MiB; all += kEach * kPathMax) {
        Bytes records;
        for (uint64_t i = 0; i < kEach; ++i, ++seed) {
            Snapshot s = sample_snapshot(seed);
            s.source = text(std::string(kPathMax - 100, 'x'), seed);
            auto one = snapshot_added(s);
            records.insert(records.end(), one.begin(), one.end());
        }
        write_segment(*repo, records);
    }
    auto again = open_repository(store);
    CHECK(again->damage.empty());
    CHECK(again->doubts.empty());
    CHECK(again->snapshots().size() == seed - 1);
}

TEST_CASE("repository: snapshots come newest first, forgotten ones not at all") {
    auto store = new_repository();
    {
        auto repo = open_repository(store);
        for (uint64_t i : {3u, 1u, 2u}) add_snapshot(*repo, i);
        write_segment(*repo, record(Record::snapshot_forgotten, sample_snapshot(2).id));
    }
    auto repo = open_repository(store);
    auto all = repo->snapshots();
    REQUIRE(all.size() == 2);
    CHECK(all[0]->id == sample_snapshot(3).id);
    CHECK(all[1]->id == sample_snapshot(1).id);
}

TEST_CASE("repository: a segment that another names is missed when it is gone, and forgiven when "
          "it is back") {
    auto store = new_repository();
    std::string lost;
    {
        auto repo = open_repository(store);
        write_segment(*repo, bulk(100 * KiB)); // not merged by the next ones
        lost = newest_segment(store);
        add_snapshot(*repo, 1);
    }
    Captured said;
    store.hidden.insert(lost);
    auto name = lost.substr(15, 32);
    for (int writes = 0; writes < 3; ++writes) { // the next runs say so as well, though they write segments
        auto repo = open_repository(store);
        REQUIRE(repo->damage.size() == 1);
        CHECK_NAMES(*repo->damage.begin(), name);
        CHECK_NAMES(said.text(), name);
        CHECK(repo->snapshots().size() == 1 + size_t(writes));
        repo->refresh();
        CHECK(repo->damage.size() == 1); // said once
        add_snapshot(*repo, 2 + uint64_t(writes));
        repo->remove_superseded();
    }
    store.hidden.clear();
    auto repo = open_repository(store);
    CHECK(repo->damage.empty());
    CHECK(repo->doubts.empty());
    CHECK(repo->snapshots().size() == 5); // with the one in the hidden segment
}

TEST_CASE("repository: a segment that comes back while a run goes on is read") {
    auto store = new_repository();
    {
        auto repo = open_repository(store);
        write_segment(*repo, bulk(100 * KiB));
        store.hidden.insert(newest_segment(store));
        add_snapshot(*repo, 1);
    }
    Captured said;
    auto repo = open_repository(store);
    CHECK(repo->snapshots().size() == 1);
    store.hidden.clear();
    repo->refresh();
    CHECK(repo->snapshots().size() == 2);
}

TEST_CASE("repository: an old segment that is brought back revives nothing") {
    auto store = new_repository();
    std::map<std::string, Bytes> old;
    {
        auto repo = open_repository(store);
        add_snapshot(*repo, 1);
        add_snapshot(*repo, 2);
        old = store.objects;
        write_segment(*repo, record(Record::snapshot_forgotten, sample_snapshot(1).id));
        for (uint64_t i = 3; i <= 6; ++i) add_snapshot(*repo, i);
    }
    tidy_index(store);
    size_t before = store.objects.size();
    store.objects.insert(old.begin(), old.end());
    CHECK(store.objects.size() > before);
    auto repo = open_repository(store);
    CHECK(snapshot_seeds(*repo, 10) == std::set<uint64_t>{2, 3, 4, 5, 6});
    CHECK(repo->damage.empty());
    CHECK(repo->doubts.empty());
}

TEST_CASE("repository: a segment that is not whole and that nobody names is doubtful until a run "
          "notes it") {
    auto store = new_repository();
    {
        auto repo = open_repository(store);
        add_snapshot(*repo, 1);
        write_segment(*repo, bulk(100 * KiB));
    }
    auto newest = newest_segment(store);
    auto whole = store.objects.at(newest);
    SUBCASE("cut short") { store.objects[newest].resize(whole.size() / 2); }
    SUBCASE("empty") { store.objects[newest].clear(); }
    SUBCASE("a byte more") { store.objects[newest].push_back(0); }
    Captured said;
    {
        auto repo = open_repository(store);
        REQUIRE(repo->doubts.size() == 1);
        CHECK_NAMES(*repo->doubts.begin(), newest);
        CHECK(repo->damage.empty());
        CHECK(snapshot_seeds(*repo, 9) == seeds_up_to(1));
        add_snapshot(*repo, 2);
    }
    {
        auto repo = open_repository(store);
        CHECK(repo->doubts.empty());
        CHECK(repo->damage.empty());
        CHECK(snapshot_seeds(*repo, 9) == seeds_up_to(2));
    }
    // Should it be whole after all, it is used.
    store.objects[newest] = whole;
    auto repo = open_repository(store);
    CHECK(repo->snapshots().size() == 3);
    CHECK(repo->doubts.empty());
}

TEST_CASE("repository: a segment whose end is there and that is not whole is damage, which no run settles") {
    auto store = new_repository();
    {
        auto repo = open_repository(store);
        add_snapshot(*repo, 1);
        write_segment(*repo, bulk(100 * KiB));
    }
    store.objects[newest_segment(store)][5000] ^= 1;
    Captured said;
    for (uint64_t run = 2; run <= 3; ++run) {
        auto repo = open_repository(store);
        CHECK(repo->damage.size() == 1);
        CHECK(repo->doubts.empty());
        CHECK(snapshot_seeds(*repo, 9) == seeds_up_to(run - 1));
        add_snapshot(*repo, run);
    }
}

TEST_CASE("repository: a broken segment that another names is damage") {
    auto store = new_repository();
    std::string broken;
    {
        auto repo = open_repository(store);
        write_segment(*repo, bulk(100 * KiB));
        broken = newest_segment(store);
        add_snapshot(*repo, 1);
    }
    store.objects[broken][5000] ^= 1;
    Captured said;
    auto repo = open_repository(store);
    CHECK(repo->damage.size() == 1);
    CHECK(repo->doubts.empty());
    CHECK(snapshot_seeds(*repo, 9) == seeds_up_to(1));
}

TEST_CASE("repository: a segment under another number than its own is not believed") {
    auto store = new_repository();
    add_snapshot(*open_repository(store), 1);
    auto newest = newest_segment(store);
    auto forged = newest;
    forged.replace(6, 8, "00000099");
    SUBCASE("moved") {
        store.objects[forged] = store.objects.at(newest);
        store.objects.erase(newest);
        Captured said;
        auto repo = open_repository(store);
        CHECK(repo->snapshots().empty());
        CHECK(repo->damage.size() + repo->doubts.size() == 1);
    }
    SUBCASE("copied: the true one is still read") {
        store.objects[forged] = store.objects.at(newest);
        Captured said;
        auto repo = open_repository(store);
        CHECK(repo->snapshots().size() == 1);
    }
}

TEST_CASE("repository: a segment seen while another client is writing it is read by the next look") {
    auto store = new_repository();
    auto late = open_repository(store), other = open_repository(store);
    write_segment(*other, condemned_record(hash_of(1)));
    auto newest = newest_segment(store);
    auto whole = store.objects.at(newest);
    Captured said;
    store.objects[newest].resize(whole.size() / 2);
    late->refresh();
    CHECK_FALSE(late->index.condemned.contains(hash_of(1)));
    store.objects[newest] = whole;
    late->refresh(); // before a segment is written: I5 depends on it
    CHECK(late->index.condemned.contains(hash_of(1)));
    add_snapshot(*late, 1);
    CHECK_FALSE(late->index.torn.contains(short_name(sha256(whole))));
}

TEST_CASE("repository: a listing that is older than what it lists is made anew") {
    auto store = new_repository();
    {
        auto repo = open_repository(store);
        for (uint64_t i = 1; i <= 4; ++i) add_snapshot(*repo, i);
    }
    std::vector<Listed> stale = store.list("index");
    tidy_index(store);
    add_snapshot(*open_repository(store), 5);
    tidy_index(store);
    int listings = 0;
    store.on_list = [&](const std::string& dir, std::vector<Listed>& found) {
        if (dir == "index" && listings++ == 0) found = stale;
    };
    Captured said;
    auto repo = open_repository(store);
    CHECK(listings == 2);
    CHECK(snapshot_seeds(*repo, 9) == seeds_up_to(5));
    CHECK(repo->damage.empty());
}

TEST_CASE("repository: two writers at once keep the snapshots of both") {
    auto store = new_repository();
    auto a = open_repository(store), b = open_repository(store);
    auto write = [](Repository* repo, uint64_t first) {
        for (uint64_t i = 0; i < 10; ++i) add_snapshot(*repo, first + 2 * i);
        repo->remove_superseded();
    };
    Captured said;
    std::thread one(write, a.get(), 1), two(write, b.get(), 2);
    one.join();
    two.join();
    CHECK(a->damage.empty());
    CHECK(b->damage.empty());
    for (int round = 0; round < 2; ++round) { // the second without what the first took away
        auto repo = open_repository(store);
        CHECK(snapshot_seeds(*repo, 30) == seeds_up_to(20));
        CHECK(repo->damage.empty());
        CHECK(repo->doubts.empty());
        repo->remove_superseded();
    }
}

TEST_CASE("repository: writers that know nothing of each other's segments lose nothing") {
    auto store = new_repository();
    auto a = open_repository(store), b = open_repository(store);
    for (uint64_t i = 1; i <= 6; i += 2) { // without looking at index/ again
        write_segment(*a, snapshot_added(sample_snapshot(i)));
        write_segment(*b, snapshot_added(sample_snapshot(i + 1)));
    }
    auto c = open_repository(store);
    CHECK(snapshot_seeds(*c, 9) == seeds_up_to(6));
    c->remove_superseded();
    add_snapshot(*c, 7);
    auto d = open_repository(store);
    CHECK(snapshot_seeds(*d, 9) == seeds_up_to(7));
    CHECK(d->damage.empty());
}

TEST_CASE("repository: a parent that another client merged meanwhile is not missed") {
    auto store = new_repository();
    write_segment(*open_repository(store), bulk(100 * KiB));
    auto parent = newest_segment(store);
    auto a = open_repository(store), b = open_repository(store);
    write_segment(*a, snapshot_added(sample_snapshot(1))); // too small to take the large one in: names it
    write_segment(*b, bulk(300 * KiB));                    // takes it in
    tidy_index(store);
    CHECK_FALSE(store.objects.contains(parent));
    Captured said;
    auto repo = open_repository(store);
    CHECK(repo->damage.empty());
    CHECK(repo->snapshots().size() == 2); // both bulks are the same snapshot
    CHECK(said.text() == "");
}

TEST_CASE("repository: a segment survives writes whose outcome nobody knows") {
    for (auto fault : {TestStore::Fault::absent, TestStore::Fault::torn, TestStore::Fault::whole}) {
        INFO("fault ", int(fault));
        for (bool append_only : {false, true}) {
            auto store = new_repository();
            store.append_only = append_only; // what was torn stays
            auto repo = open_repository(store);
            std::set<std::string> tried;
            int faults = 0;
            store.on_create = [&](const std::string& name) {
                CHECK(tried.insert(name).second);                          // never the same name twice
                return ++faults % 3 == 0 ? TestStore::Fault::none : fault; // two in a row fail
            };
            for (uint64_t i = 1; i <= 4; ++i) add_snapshot(*repo, i);
            // Each commit writes two in vain and one that is confirmed. Where the former are there all the
            // same, they repeat each other and are merged once more, which may take three again.
            if (fault == TestStore::Fault::whole)
                CHECK((faults >= 12 && faults <= 24));
            else
                CHECK(faults == 12);
            store.on_create = nullptr;
            Captured said;
            auto again = open_repository(store);
            CHECK(snapshot_seeds(*again, 9) == seeds_up_to(4));
            CHECK(again->damage.empty());
            CHECK(again->doubts.empty());
            CHECK(said.text() == "");
        }
    }
}

TEST_CASE("repository: a write that is refused is an error, and the next one goes on from there") {
    auto store = new_repository();
    auto repo = open_repository(store);
    store.on_create = [](const std::string&) { return TestStore::Fault::refused; };
    CHECK_THROWS_AS(add_snapshot(*repo, 1), Error);
    store.on_create = nullptr;
    add_snapshot(*repo, 2);
    CHECK(snapshot_seeds(*open_repository(store), 9) == std::set<uint64_t>{2});
}

TEST_CASE("repository: a byte flipped in, or a cut of, any segment never gives a wrong list quietly") {
    auto store = new_repository();
    {
        auto repo = open_repository(store);
        write_segment(*repo, bulk(20 * KiB)); // stays apart from what comes later
        for (uint64_t i = 1; i <= 2; ++i) add_snapshot(*repo, i);
    }
    tidy_index(store);
    auto names = store.names("index");
    CHECK(names.size() >= 2);
    Captured said;
    for (auto& name : names) {
        auto whole = store.objects.at(name);
        for (size_t at = 0; at<whole.size(); at += whole.size()> 5000 ? 97 : 1)
            for (bool cut : {false, true}) {
                auto& bad = store.objects.at(name) = whole;
                cut ? bad.resize(at) : void(bad[at] ^= 0x10);
                INFO(name, (cut ? " cut to " : " flipped at "), at, " of ", whole.size());
                try {
                    auto repo = open_repository(store);
                    CHECK(repo->damage.size() + repo->doubts.size() > 0);
                } catch (const Corrupt&) {
                }
            }
        store.objects.at(name) = whole;
    }
    auto repo = open_repository(store);
    CHECK(repo->snapshots().size() == 3);
    CHECK(repo->damage.size() + repo->doubts.size() == 0);
}
