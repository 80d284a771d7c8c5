// Whole runs against a store that fails, at every single call, and against a server that loses power at
// every single call: what comes out is right or a clean error, and the next run makes all well.

namespace {

// ---- a source, what is restored of it, and whether a repository is sound ------------------------------

/// What lies below a directory: for each path its type, mode, time and content.
std::map<std::string, std::string> picture(const support::fs::path& top) {
    std::map<std::string, std::string> all;
    for (auto& e : support::fs::recursive_directory_iterator(top)) {
        struct stat st;
        if (lstat(e.path().c_str(), &st) != 0) continue;
        auto& shown = all[e.path().lexically_relative(top).string()];
        shown = text(std::oct, st.st_mode, std::dec, " ", st.st_mtim.tv_sec, ".", st.st_mtim.tv_nsec, " ");
        if (S_ISREG(st.st_mode)) shown += hex(sha256(as_bytes(support::read_file(e.path()))));
        if (S_ISLNK(st.st_mode)) shown += support::fs::read_symlink(e.path()).string();
    }
    return all;
}
/// What of a restored tree is not as it was; directories of a restore that did not end may lack their
/// metadata.
std::string wrong_in(const support::fs::path& restored, const std::map<std::string, std::string>& wanted,
                     bool whole) {
    std::string wrong;
    size_t found = 0;
    if (!support::fs::exists(restored)) return whole ? "nothing was restored" : "";
    for (auto& [path, shown] : picture(restored)) {
        auto at = wanted.find(path);
        ++found;
        if (at == wanted.end())
            wrong += show(path) + " was never there\n";
        else if (at->second != shown &&
                 (whole || !support::fs::is_directory(support::fs::symlink_status(restored / path))))
            wrong += show(path) + " is " + shown + ", was " + at->second + "\n";
    }
    if (whole && found != wanted.size()) wrong += text(found, " of ", wanted.size(), " names are there\n");
    return wrong;
}

/// Files and other things in a few directories, and repositories that hold their past.
struct Past {
    support::TempDir dir;
    TestStore empty = new_repository();
    TestStore base;                            // three backups, of which a fourth finds segments to remove
    std::map<std::string, std::string> source; // as it is now
    std::set<SnapshotId> in_base;

    static BackupOptions options() {
        BackupOptions o;
        o.connections = 1;
        o.checkpoint = std::chrono::seconds(0);
        return o;
    }
    /// Throws Error; a file that counts as unreadable is none: all can be read.
    Snapshot back_up(Store& store) const {
        auto repo = open_repository(store);
        auto result = Backup(*repo, options()).run((dir / "src").string(), Scene::record("host"));
        if (!result.refused.empty() || result.unreadable > 0)
            throw std::runtime_error("a file that can be read is taken for unreadable");
        return result.snapshot;
    }
    void write(const std::string& path, size_t size, uint64_t seed) const {
        support::write_file(dir / "src" / path, string_of(noise(size, seed)));
    }

    Past() : base(empty) {
        write("a", 3000, 1);
        write("changes", 2000, 2);
        write("goes", 2000, 3);
        write("d/empty", 0, 4);
        write("d/e/b", 400, 5);
        support::fs::create_symlink("../a", dir / "src/d/link");
        for (uint64_t n = 0; n < 3; ++n) {
            write("daily", 500, 100 + n);
            in_base.insert(back_up(base).id);
            base.clock += 2 * kSettled;
        }
        support::fs::remove(dir / "src/goes");
        write("changes", 2500, 6);
        write("d/new", 1000, 7);
        support::settle(); // so that what is unchanged is not read again
        source = picture(dir / "src");
    }
    static const Past& get() {
        static const Past past;
        return past;
    }
};

/// Restores the newest snapshot; returns how it ends, as restore() of the command line does.
Exit restore_newest(Store& store, const support::fs::path& dest) {
    auto repo = open_repository(store);
    auto all = repo->snapshots();
    if (all.empty()) return Exit::failed;
    RestoreOptions o;
    o.connections = 2;
    RestoreResult r;
    Restore(*repo, *all[0], o).run(dest.string(), r);
    if (r.damaged > 0 || !repo->damage.empty() || !repo->doubts.empty()) return Exit::damaged;
    return r.kept + r.failed > 0 ? Exit::partial : Exit::ok;
}
std::string wrong_in_restore(Store& store, const std::map<std::string, std::string>& wanted) {
    support::TempDir dest;
    if (auto exit = restore_newest(store, dest / "to"); exit != Exit::ok)
        return text("the restore ends with ", int(exit));
    return wrong_in(dest / "to", wanted, true);
}
/// What `check --read-data` finds wrong; "" if nothing.
std::string found_by_check(Store& store) {
    Captured said;
    auto repo = open_repository(store);
    Captured out(std::cout);
    CheckResult r;
    Sample all;
    Check(*repo, 1).run(&all, true, r);
    bool sound = r.errors == 0 && repo->damage.empty() && repo->doubts.empty();
    return sound ? "" : "check: " + said.text();
}

/// What of the snapshots that a store lists cannot be read; "" if nothing. Uploads that were cut do not
/// count.
std::string lost_in(TestStore& store) {
    auto faults = faults_in(store, snapshots_in(store));
    auto repo = open_repository(store);
    for (auto& what : repo->doubts)
        if (auto at = faults.find(what + "\n"); at != faults.npos) faults.erase(at, what.size() + 1);
    return faults;
}

// ---- every call fails ----------------------------------------------------------------------------------

/// A store whose call number `k` fails, or that one and all that follow.
class Failing : public PlainStore {
  public:
    /// What becomes of that call. All but the first: there is no answer.
    enum How { refused, not_done, half_done, done };

    Failing(TestStore& to, int k, How how, bool for_good)
        : to_(to), left_(k), how_(how), for_good_(for_good) {}
    std::atomic<bool> reached{false}, changing{false}; // the call was made; and was to change something

    std::vector<Listed> list(const std::string& dir) override {
        if (fails()) fail("list", dir);
        return to_.list(dir);
    }
    Bytes read(const std::string& name, uint64_t offset, size_t length) override {
        if (fails()) fail("read", name);
        return to_.read(name, offset, length);
    }
    void create(const std::string& name, View data) override {
        auto fault = fails();
        if (!fault || fault == done) to_.create(name, data);
        if (fault == half_done) to_.put(name, data.first(data.size() / 2));
        if (!fault) return;
        changing = true;
        if (fault != refused && !gone_) throw Uncertain("the line broke while " + name + " was written");
        fail("create", name);
    }
    void remove(const std::string& name) override {
        auto fault = fails();
        if (!fault || fault == done) to_.remove(name);
        if (!fault) return;
        changing = true;
        fail("remove", name);
    }
    void truncate(const std::string&) override { throw Error("not here"); }
    void rename(const std::string&, const std::string&) override { throw Error("not here"); }
    void make_directory(const std::string& dir) override {
        if (fails()) fail("create", dir);
        to_.make_directory(dir);
    }

  private:
    std::optional<How> fails() {
        std::lock_guard lock(mutex_);
        if (left_ > 0 && --left_ > 0) return {};
        if (reached && !for_good_) return {};
        gone_ = reached; // what comes later finds nobody
        reached = true;
        return gone_ && how_ != refused ? not_done : how_;
    }
    [[noreturn]] void fail(const char* tried, const std::string& on) const {
        if (how_ == refused) throw Error(text("cannot ", tried, " ", on, ": permission denied"));
        throw ConnectionLost(text("cannot ", tried, " ", on, ": the connection was lost"));
    }
    TestStore& to_;
    std::mutex mutex_;
    int left_;
    How how_;
    bool for_good_, gone_ = false;
};

struct Failure {
    int k;
    Failing::How how;
    bool for_good;
    std::optional<Exit> exit; // of the job, if it ended with an Error
};

/// Runs `job` once for each way in which each of its calls may fail, on a copy of `begin`, and `after` with
/// what became of the copy. Returns how many runs ended with an Error, and how many in spite of all went on.
template <class Job, class After>
std::pair<int, int> fail_everywhere(const TestStore& begin, Job job, After after) {
    std::pair<int, int> count;
    for (bool for_good : {false, true}) {
        bool reached = true;
        for (int k = 1; reached; ++k) {
            for (auto how : {Failing::refused, Failing::not_done, Failing::half_done, Failing::done}) {
                INFO(text("call ", k, " fails, ", int(how), for_good ? ", and all that follow" : ""));
                TestStore store(begin);
                Failing failing(store, k, how, for_good);
                Failure failure{k, how, for_good, {}};
                std::string words;
                try {
                    job(failing);
                } catch (const Error& e) {
                    failure.exit = e.exit;
                    words = e.what();
                }
                reached = failing.reached;
                if (!reached) break;
                ++(failure.exit ? count.first : count.second);
                INFO("it says: ", words);
                if (failure.exit) {
                    CHECK(!words.empty());
                    // A lost connection is never taken for damage, which would send the user to repair.
                    if (how == Failing::refused)
                        CHECK((failure.exit == Exit::failed || failure.exit == Exit::damaged));
                    else
                        CHECK(failure.exit == Exit::network);
                }
                after(store, failure);
                if (!failing.changing && how == Failing::not_done) break; // looking half is not looking
            }
        }
    }
    return count;
}
/// That not all jobs failed, nor went on.
void check_faults_met(const std::pair<int, int>& met, int least) {
    int failed = met.first, went_on = met.second;
    INFO(failed, " failed, ", went_on, " went on");
    CHECK(failed > 10);
    CHECK(went_on > least);
}

} // namespace

TEST_CASE("faults: a backup, each call of which may fail, commits or says why, loses nothing, and the next "
          "one is whole") {
    Captured said;
    auto& past = Past::get();
    for (bool first : {true, false}) {
        CAPTURE(first);
        std::optional<Snapshot> made;
        auto job = [&](Store& store) {
            made.reset();
            made = past.back_up(store);
        };
        auto met = fail_everywhere(first ? past.empty : past.base, job,
                                   [&](TestStore& store, const Failure& failure) {
                                       CHECK(made.has_value() == !failure.exit);
                                       CHECK(open_repository(store)->damage.empty());
                                       auto ids = snapshots_in(store);
                                       for (auto& id : first ? std::set<SnapshotId>{} : past.in_base)
                                           CHECK(ids.contains(id));
                                       if (made) CHECK(ids.contains(made->id));
                                       CHECK(lost_in(store) == ""); // (I3)
                                       ids.insert(past.back_up(store).id);
                                       CHECK(faults_in(store, ids) == "");
                                       CHECK(found_by_check(store) == "");
                                       if (failure.exit || failure.how != Failing::refused)
                                           CHECK(wrong_in_restore(store, past.source) == "");
                                   });
        check_faults_met(met, 3);
    }
}

TEST_CASE(
    "faults: a restore, each call of which may fail, leaves whole files only, and the next one is whole") {
    Captured said;
    auto& past = Past::get();
    TestStore begin(past.base);
    past.back_up(begin);
    std::unique_ptr<support::TempDir> dest;
    Exit exit = Exit::ok;
    auto met = fail_everywhere(
        begin,
        [&](Store& store) {
            dest = std::make_unique<support::TempDir>();
            exit = restore_newest(store, *dest / "to");
        },
        [&](TestStore& store, const Failure& failure) {
            bool whole = !failure.exit && exit == Exit::ok;
            CHECK(wrong_in(*dest / "to", past.source, whole) == "");
            if (!failure.exit && !whole) CHECK(exit == Exit::damaged); // and it says what it could not read
            CHECK(restore_newest(store, *dest / "to") == Exit::ok);
            CHECK(wrong_in(*dest / "to", past.source, true) == "");
        });
    check_faults_met(met, 0);
}

TEST_CASE("faults: a prune, each call of which may fail, loses no snapshot, and later ones finish the work") {
    Captured said;
    auto& scene = Scene::get();
    for (auto& [name, begin, wait] : {std::tuple("condemning", &scene.fresh, kGrace),
                                      {"deleting", &scene.needed, kGrace},
                                      {"at once", &scene.fresh, int64_t(0)}}) {
        auto& what = name;
        int64_t grace = wait;
        CAPTURE(what);
        TestStore untouched(*begin);
        auto wanted = snapshots_in(untouched);
        auto met = fail_everywhere(
            *begin, [grace](Store& store) { prune(*open_repository(store), thorough(grace)); },
            [&](TestStore& store, const Failure&) {
                CHECK(open_repository(store)->damage.empty());
                check_settles(store, wanted);
            });
        check_faults_met(met, 3);
    }
}

TEST_CASE("faults: a checkpoint that fails while a file is read ends the run; the file is not taken for "
          "unreadable") {
    Captured said;
    support::TempDir dir;
    for (int i = 0; i < 6; ++i)
        support::write_random_file(dir / text("src/", i), 6 * MiB, uint64_t(i)); // two packs on the way
    TestStore store = new_repository();
    std::atomic<bool> refused = false;
    store.on_create = [&](const std::string& name) {
        bool now = name.starts_with("index/") && !refused.exchange(true);
        if (now)
            for (int i = 0; i < 1000 && store.names("packs").empty(); ++i)
                std::this_thread::sleep_for(std::chrono::milliseconds(1));
        return now ? TestStore::Fault::refused : TestStore::Fault::none;
    };
    std::string words;
    BackupResult result;
    try {
        auto repo = open_repository(store);
        result = Backup(*repo, Past::options()).run((dir / "src").string(), Scene::record("host"));
    } catch (const Error& e) {
        words = e.what();
    }
    INFO(said.text());
    REQUIRE(refused);
    CHECK(result.unreadable == 0);
    CHECK_NAMES(words, "no space");
}

TEST_CASE(
    "faults: a restore that loses its connection while a file waits for what was not asked for yet ends") {
    Captured said;
    TestStore store = new_repository();
    std::string second; // the pack of the tree's second part
    {
        auto repo = open_repository(store);
        Packer packer(*repo, 1, kCheckpoint);
        Writer list;
        auto a = stored_file(packer, "a", {noise(1000, 1)});
        auto put = [&](const std::string& first, const Bytes& part) {
            list.raw(packer.put(Kind::tree, part));
            list.string(first);
        };
        put("", encode_entries({all_sorts()[0], a}));
        packer.flush();
        auto before = store.objects;
        put("z", encode_entries({file("z", 0)}, "z"));
        packer.flush();
        for (auto& name : store.names("packs"))
            if (!before.contains(name)) second = name;
        auto s = sample_snapshot(1);
        s.tree = {packer.put(Kind::tree, list.view())};
        packer.flush();
        packer.checkpoint(snapshot_added(s));
    }
    support::TempDir dest;
    auto waits = [&] { // the file has its temporary name: its writer is about to wait
        for (auto& e : support::fs::directory_iterator(dest.path()))
            if (e.path().filename().string().starts_with(".nfreeze-")) return true;
        return false;
    };
    store.on_read = [&](const std::string& name) {
        if (name != second) return;
        if (!support::wait_until(waits, std::chrono::milliseconds(5000)))
            throw std::runtime_error("nobody writes");
        std::this_thread::sleep_for(std::chrono::milliseconds(50));
        throw ConnectionLost("the line broke");
    };
    auto end = in_child(20, [&] {
        auto repo = open_repository(store);
        RestoreResult r;
        Restore(*repo, *repo->snapshots().at(0), {}).run(dest.path().string(), r);
    });
    CHECK(end == "exception: the line broke");
}

// ---- the server loses power ------------------------------------------------------------------------------

namespace {

/// A server that loses power at a call: what it was just writing, or what it never wrote to its disk, comes
/// back as `left` says. Nobody answers from then on.
class Powered : public PlainStore {
  public:
    enum Left { absent, empty, half, zeros, zero_tail, hole, whole };
    static constexpr std::array kLeft{absent, empty, half, zeros, zero_tail, hole, whole};

    /// `revives`: removed objects come back, too: their directory was not written either.
    Powered(TestStore& disk, int k, Left left, bool revives)
        : disk_(disk), left_(k), how_(left), revives_(revives) {}
    bool reached = false, changing = false;
    int removed = 0;
    /// Of the objects that this run created: those whose creation was confirmed, in their order.
    std::vector<std::string> confirmed;
    std::string hollow; // the segment that ends as it should, but has a hole

    std::vector<Listed> list(const std::string& dir) override {
        if (is_cut()) cut();
        return disk_.list(dir);
    }
    Bytes read(const std::string& name, uint64_t offset, size_t length) override {
        if (is_cut()) cut();
        return disk_.read(name, offset, length);
    }
    void create(const std::string& name, View data) override {
        bool now = is_cut();
        if (!now || how_ != absent) disk_.create(name, data);
        if (now && how_ != absent) damage(disk_, name, how_);
        if (now && how_ == hole && name.starts_with("index/")) hollow = name;
        changing |= now;
        if (now) cut();
        std::lock_guard lock(mutex_);
        confirmed.push_back(name);
    }
    void remove(const std::string& name) override {
        bool now = is_cut();
        changing |= now;
        if (!disk_.objects.contains(name)) throw NotThere("no object " + name);
        auto bytes = disk_.objects.at(name);
        if (!now || how_ == absent) disk_.remove(name);
        gone_[name] = bytes;
        ++removed;
        if (now) cut();
    }
    void truncate(const std::string&) override { throw Error("not here"); }
    void rename(const std::string&, const std::string&) override { throw Error("not here"); }
    void make_directory(const std::string&) override { throw Error("not here"); }

    /// What is found of an object when the power is back.
    static void damage(TestStore& disk, const std::string& name, Left left) {
        auto& bytes = disk.objects.at(name);
        if (left == empty) bytes.clear();
        if (left == half) bytes.resize(bytes.size() / 2);
        if (left == zeros) std::ranges::fill(bytes, 0);
        if (left == zero_tail) std::fill(bytes.begin() + long(bytes.size() / 2), bytes.end(), 0);
        if (left == hole)
            std::fill(bytes.begin() + long(bytes.size() / 3), bytes.end() - long(bytes.size() / 3), 0);
        if (left == absent) disk.objects.erase(name);
    }

  private:
    bool is_cut() {
        std::lock_guard lock(mutex_);
        if (reached) throw ConnectionLost("the server is off");
        return reached = left_ > 0 && --left_ == 0;
    }
    [[noreturn]] void cut() {
        if (revives_)
            for (auto& [name, bytes] : gone_) disk_.put(name, bytes);
        throw ConnectionLost("the server is off");
    }
    TestStore& disk_;
    std::mutex mutex_;
    int left_;
    Left how_;
    bool revives_;
    std::map<std::string, Bytes> gone_;
};

/// A server that loses power when several uploads are under way, after the first `spared` packs of a run.
/// Of each of them something else is left.
class Crowded : public PlainStore {
  public:
    Crowded(TestStore& disk, int spared, uint64_t seed) : disk_(disk), spared_(spared), random_(seed) {}
    std::vector<std::string> under_way;

    std::vector<Listed> list(const std::string& dir) override { return answer(), disk_.list(dir); }
    Bytes read(const std::string& name, uint64_t offset, size_t length) override {
        return answer(), disk_.read(name, offset, length);
    }
    void remove(const std::string& name) override { return answer(), disk_.remove(name); }
    void truncate(const std::string&) override { throw Error("not here"); }
    void rename(const std::string&, const std::string&) override { throw Error("not here"); }
    void make_directory(const std::string&) override { throw Error("not here"); }
    void create(const std::string& name, View data) override {
        std::unique_lock lock(mutex_); // so that nothing more is created once it is off
        if (off_) throw ConnectionLost("the server is off");
        disk_.create(name, data);
        if (!name.starts_with("packs/") || spared_-- > 0) return;
        under_way.push_back(name);
        changed_.notify_all();
        changed_.wait_for(lock, std::chrono::seconds(5), [&] { return off_ || under_way.size() == 3; });
        if (!off_)
            for (auto& pack : under_way)
                Powered::damage(disk_, pack, Powered::kLeft[random_.below(Powered::kLeft.size())]);
        off_ = true;
        changed_.notify_all();
        throw ConnectionLost("the server is off");
    }

  private:
    void answer() {
        std::lock_guard lock(mutex_);
        if (off_) throw ConnectionLost("the server is off");
    }
    TestStore& disk_;
    std::mutex mutex_;
    std::condition_variable changed_;
    int spared_;
    bool off_ = false;
    support::Random random_;
};

} // namespace

TEST_CASE(
    "power: several uploads are under way when the server loses power, and something else is left of each") {
    Captured said;
    support::TempDir dir;
    support::write_file(dir / "src/large", string_of(noise(64 * MiB, 1))); // four packs and more
    support::write_file(dir / "src/small", "small");
    auto source = picture(dir / "src");
    auto o = Past::options();
    o.connections = 4;
    auto back_up = [&](Store& store) {
        auto repo = open_repository(store);
        return Backup(*repo, o).run((dir / "src").string(), Scene::record("host")).snapshot.id;
    };
    for (int spared : {0, 1})
        for (uint64_t seed = 0; seed < (support::slow_tests() ? 40u : 1u); ++seed) {
            INFO(spared, " packs were there, seed ", seed);
            TestStore disk(Past::get().base);
            auto before = snapshots_in(disk);
            Crowded server(disk, spared, seed);
            CHECK_THROWS_AS(back_up(server), ConnectionLost);
            CHECK(server.under_way.size() == 3);
            CHECK(lost_in(disk) == ""); // (I2, I3)
            CHECK(snapshots_in(disk) == before);
            disk.clock += 60;
            before.insert(back_up(disk));
            CHECK(faults_in(disk, before) == "");
            CHECK(found_by_check(disk) == "");
            CHECK(wrong_in_restore(disk, source) == "");
        }
}

TEST_CASE("power: whatever a server was writing when it lost power, the next backup heals it, and nothing "
          "that was committed is lost") {
    Captured said;
    auto& past = Past::get();
    int cuts = 0, removed = 0;
    for (bool first : {true, false})
        for (bool revives : {true, false}) {
            bool reached = true;
            for (int k = 1; reached; ++k)
                for (auto left : Powered::kLeft) {
                    INFO(text(first ? "first backup" : "later backup", ": power lost at call ", k,
                              ", left of it: ", int(left), revives ? ", and what was removed" : ""));
                    TestStore disk(first ? past.empty : past.base);
                    Powered server(disk, k, left, revives);
                    bool ended = false;
                    try {
                        past.back_up(server);
                        ended = true;
                    } catch (const Error& e) {
                        CHECK(e.exit == Exit::network);
                    }
                    removed += server.removed;
                    reached = server.reached;
                    if (!reached) break;
                    ++cuts;
                    auto ids = snapshots_in(disk);
                    // A segment with a right end was whole once, for all that anybody can tell: only a repair
                    // says that it may go.
                    CHECK(lost_in(disk) ==
                          (server.hollow.empty()
                               ? ""
                               : server.hollow + " is damaged: what it listed is unknown\n")); // (I2, I3)
                    CHECK((ended || ids.size() <= (first ? 0 : past.in_base.size()) +
                                                      1)); // +1: committed, and nobody heard of it
                    for (auto& id : first ? std::set<SnapshotId>{} : past.in_base) CHECK(ids.contains(id));
                    disk.clock += 60;
                    ids.insert(past.back_up(disk).id);
                    if (!server.hollow.empty()) { // it may find the snapshot that was cut, too
                        Repair(*open_repository(disk), 1).run();
                        auto found = snapshots_in(disk);
                        CHECK(std::ranges::includes(found, ids));
                        ids = found;
                    }
                    CHECK(faults_in(disk, ids) == "");
                    CHECK(found_by_check(disk) == "");
                    if (server.changing)
                        CHECK(wrong_in_restore(disk, past.source) == "");
                    else
                        break;
                }
        }
    INFO(cuts, " cuts, ", removed, " objects removed");
    CHECK(cuts > 50);
    CHECK(removed > 0);
}

TEST_CASE("power: a server that confirmed what it had not written loses no earlier snapshot; a check sees "
          "what is lost, a repair and a backup heal it") {
    Captured said;
    auto& past = Past::get();
    int found = 0, healed_alone = 0;
    for (bool first : {true, false})
        for (auto left : Powered::kLeft)
            for (uint64_t seed = 0; seed < 12; ++seed) {
                INFO(text(first ? "first backup" : "later backup", ", left: ", int(left), ", seed ", seed));
                TestStore disk(first ? past.empty : past.base);
                Powered server(disk, 0, left, false);
                past.back_up(server);
                support::Random random(seed);
                for (auto& name : server.confirmed) {
                    bool segment = name.starts_with("index/");
                    if (seed == 0 ? !segment : seed == 1 ? segment : random.below(2) == 0)
                        Powered::damage(disk, name, left); // packs alone, segments alone
                }
                for (auto& id : first ? std::set<SnapshotId>{} : past.in_base)
                    CHECK(snapshots_in(disk).contains(id));
                disk.clock += 60;
                try {
                    past.back_up(disk);
                } catch (const Error& e) {
                    CHECK(e.exit == Exit::damaged);
                }
                if (found_by_check(disk).empty()) {
                    ++healed_alone;
                } else {
                    ++found;
                    Repair(*open_repository(disk), 1).run();
                    past.back_up(disk);
                }
                CHECK(found_by_check(disk) == "");
                CHECK(wrong_in_restore(disk, past.source) == "");
            }
    INFO(found, " found, ", healed_alone, " healed by a backup alone");
    CHECK(found > 10);
    CHECK(healed_alone > 20);
}
