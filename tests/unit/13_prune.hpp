// Section 13: prune. First side by side with backups and other prunes, in every order of their
// operations up to a bound; then killed at every operation; then what it deletes, keeps and refuses.

namespace {

constexpr int64_t kGrace = PruneOptions{}.grace;

// ---- several clients, one operation at a time ---------------------------------------------------

/// What a listing shows of names that came or went while it was under way: servers do all of these.
enum class Seen { at_end, at_begin, in_both, in_both_and_newest };
constexpr std::array kSeen{Seen::at_end, Seen::at_begin, Seen::in_both, Seen::in_both_and_newest};

/// Clients that share a store in memory, each in a thread of its own. Every operation that could make a
/// difference waits until its client is let go on by one step; so the order of all steps is chosen here.
/// A listing is two steps, between which names may come and go, and so is the creation of a segment,
/// which others may find half written. Reading what nobody removes is none: it does not matter when.
class Stage {
  public:
    class Client;
    using Play = std::function<void(Client&)>;

    class Client : public Store {
      public:
        Client(Stage& stage, Play play, int repositories, Clock::duration listing_lasts)
            : stage_(stage), play_(std::move(play)), listing_lasts_(listing_lasts) {
            for (int i = 0; i < repositories; ++i) repositories_.push_back(take_repository());
        }
        ~Client() override {
            if (thread_.joinable()) thread_.join();
            for (auto& r : repositories_) spare_repositories().push_back(std::move(r));
        }

        /// As if a program was started that opens the repository.
        Repository& open() {
            auto& mine = *repositories_.at(opened_++);
            looked_ = decided_ = false;
            load_from(mine, *this);
            mine.repo->listing_lasts = listing_lasts_;
            return *mine.repo;
        }
        /// The server's clock goes on. Not while somebody lists, or is between its last look at the index
        /// and the end of its commit: that these lie no grace period apart is what all relies on.
        void pass_time(int64_t seconds) {
            act([&] { stage_.objects.clock += seconds; }, true);
        }

        bool backup = false;               // or else a prune
        std::optional<Snapshot> committed; // by a backup
        std::string complaint;             // what an Error said that ended it
        uint64_t packs_sent = 0, packs_removed = 0;

        std::vector<ObjectInfo> list(const std::string& dir) override {
            std::vector<ObjectInfo> before, after;
            act([&] {
                before = stage_.objects.list(dir);
                listing_ = true;
                if (dir == "index" && looked_) decided_ = true;
            });
            act([&] {
                after = stage_.objects.list(dir);
                listing_ = false;
                if (dir == "packs") looked_ = true;
            });
            return stage_.choose(dir, before, after);
        }
        Bytes read(const std::string& name, uint64_t offset, size_t length) override {
            Bytes bytes;
            if (!stage_.removable.contains(name)) return stage_.objects.read(name, offset, length);
            act([&] { bytes = stage_.objects.read(name, offset, length); });
            return bytes;
        }
        void create(const std::string& name, View data) override {
            bool segment = name.starts_with("index/");
            if (segment) act([&] { stage_.objects.put(name, data.first(data.size() / 2)); });
            act([&] {
                if (segment) stage_.objects.put(name, data);
                else stage_.objects.create(name, data);
                if (segment) decided_ = false;
                packs_sent += !segment;
                stage_.created_.push_back(name);
            });
        }
        void remove(const std::string& name) override {
            act([&] {
                packs_removed += name.starts_with("packs/");
                stage_.objects.remove(name);
            });
        }
        void make_directory(const std::string&) override { throw Error("not here"); }

      private:
        friend class Stage;
        template <class F> void act(F f, bool passes_time = false) {
            std::unique_lock lock(stage_.mutex_);
            auto ticket = ++asked_;
            wants_time_ = passes_time;
            stage_.changed_.notify_all();
            stage_.changed_.wait(lock, [&] { return granted_ >= ticket; });
            lock.unlock();
            std::exception_ptr failed;
            try {
                f();
            } catch (...) { failed = std::current_exception(); }
            lock.lock();
            wants_time_ = false;
            ++done_;
            stage_.changed_.notify_all();
            if (failed) std::rethrow_exception(failed);
        }
        void run() {
            try {
                play_(*this);
            } catch (const Error& e) {
                complaint = e.what();
            } catch (const std::exception& e) { stage_.crash(e.what()); }
            std::lock_guard lock(stage_.mutex_);
            finished_ = true;
            stage_.changed_.notify_all();
        }

        Stage& stage_;
        Play play_;
        Clock::duration listing_lasts_;
        std::vector<std::unique_ptr<Reusable>> repositories_;
        size_t opened_ = 0;
        uint64_t asked_ = 0, granted_ = 0, done_ = 0; // operations
        bool wants_time_ = false, finished_ = false;
        std::atomic<bool> listing_{false}, looked_{false}, decided_{false};
        std::thread thread_;
    };

    explicit Stage(const TestStore& begin) : objects(begin) {}
    ~Stage() {
        for (auto& c : clients_) to_its_end(*c);
    }
    Client& add(Play play, int repositories = 1, Clock::duration listing_lasts = {}) {
        clients_.push_back(std::make_unique<Client>(*this, std::move(play), repositories, listing_lasts));
        return *clients_.back();
    }
    void begin() {
        for (auto& c : clients_) {
            c->thread_ = std::thread([&c = *c] { c.run(); });
            std::unique_lock lock(mutex_);
            wait(lock, *c);
        }
    }
    /// One operation; returns false if it has ended.
    bool step(Client& c) {
        std::unique_lock lock(mutex_);
        while (c.wants_time_) {
            auto busy = std::ranges::find_if(clients_, [&](auto& o) { return o.get() != &c && !o->finished_ && (o->listing_ || o->decided_); });
            if (busy == clients_.end()) break;
            lock.unlock();
            step(**busy);
            lock.lock();
        }
        if (c.finished_) return false;
        ++c.granted_;
        changed_.notify_all();
        wait(lock, c);
        return true;
    }
    bool has_ended(Client& c) {
        std::lock_guard lock(mutex_);
        return c.finished_;
    }
    void to_its_end(Client& c) {
        while (step(c)) {}
    }
    Client& client(size_t i) { return *clients_[i]; }
    size_t clients() const { return clients_.size(); }

    TestStore objects;
    std::set<std::string> removable; // reading these is a step
    Seen seen = Seen::at_end;
    std::atomic<bool> ambiguous{false}; // a listing changed while it was under way

  private:
    /// Until the client asks for its next operation or has ended. One that does neither hangs.
    void wait(std::unique_lock<std::mutex>& lock, Client& c) {
        auto still = [&] { return c.done_ == c.granted_ && (c.asked_ > c.granted_ || c.finished_); };
        if (!changed_.wait_for(lock, std::chrono::seconds(60), still)) crash("a client hangs");
    }
    [[noreturn]] static void crash(const char* what) {
        std::fprintf(stderr, "prune, side by side: %s\n", what);
        std::abort();
    }
    std::vector<ObjectInfo> choose(const std::string& dir, const std::vector<ObjectInfo>& before, const std::vector<ObjectInfo>& after) {
        auto same = [](auto& a, auto& b) { return a.name == b.name && a.size == b.size; };
        if (std::ranges::equal(before, after, same)) return after;
        ambiguous = true;
        if (seen == Seen::at_end) return after;
        if (seen == Seen::at_begin) return before;
        auto has = [](auto& all, auto& name) { return std::ranges::find(all, name, &ObjectInfo::name) != all.end(); };
        std::vector<ObjectInfo> found;
        for (auto& o : before)
            if (has(after, o.name)) found.push_back(o);
        if (seen == Seen::in_both) return found;
        std::lock_guard lock(mutex_);
        for (auto name = created_.rbegin(); name != created_.rend(); ++name)
            for (auto& o : after)
                if (dir + "/" + o.name == *name && !has(before, o.name)) return found.push_back(o), found;
        return found;
    }

    std::mutex mutex_;
    std::condition_variable changed_;
    std::vector<std::string> created_; // in this order
    std::vector<std::unique_ptr<Client>> clients_;
};

/// An order of steps: clients that are stopped after so many of them, then each to its end.
struct Schedule {
    std::vector<std::pair<size_t, int>> stopped; // client, steps
    std::vector<size_t> rest;
    std::string text() const {
        std::string s;
        for (auto& [client, steps] : stopped) s += ::text(client, " for ", steps, " steps, ");
        for (auto c : rest) s += ::text(c, " ");
        return s;
    }
};

/// Calls `run` for each schedule in which clients are stopped exactly so many times. It returns which of
/// the stops did not happen because the client had ended: the first one's number.
size_t each_schedule(size_t clients, size_t stops, Schedule& s, const std::function<size_t(const Schedule&)>& run) {
    if (stops == 0) {
        size_t in_vain = SIZE_MAX;
        s.rest.resize(clients);
        std::iota(s.rest.begin(), s.rest.end(), size_t(0));
        do {
            if (s.stopped.empty() || s.stopped.back().first != s.rest[0]) in_vain = std::min(in_vain, run(s));
        } while (in_vain == SIZE_MAX && std::ranges::next_permutation(s.rest).found);
        return in_vain;
    }
    size_t depth = s.stopped.size();
    for (size_t c = 0; c < clients; ++c) {
        if (depth > 0 && s.stopped.back().first == c) continue;
        for (int steps = 1;; ++steps) {
            s.stopped.emplace_back(c, steps);
            auto in_vain = each_schedule(clients, stops - 1, s, run);
            s.stopped.pop_back();
            if (in_vain < depth) return in_vain;
            if (in_vain == depth) break;
        }
    }
    return SIZE_MAX;
}

// ---- whether all is there --------------------------------------------------------------------------

std::string short_id(const SnapshotId& id) { return hex(id).substr(0, 8); }

/// What is wrong with the snapshots in a store, each chunk of which is read and checked; "" if nothing.
std::string faults_in(TestStore& store, const std::set<SnapshotId>& wanted) {
    std::string faults;
    try {
        auto repo = open_repository(store);
        for (auto* list : {&repo->damage, &repo->doubts})
            for (auto& what : *list) faults += what + "\n";
        std::set<SnapshotId> found;
        std::set<ChunkId> good;
        TaskPool wire(1, 4);
        ChunkReader reader(*repo, wire, kReadAhead);
        IdHasher hasher(repo->keys.id);
        for (auto* s : repo->snapshots()) {
            found.insert(s->id);
            auto read = [&](const ChunkId& id) {
                if (!good.contains(id)) reader.read(id, hasher), good.insert(id);
            };
            try {
                std::ranges::for_each(s->tree, read);
                TreeReader tree(*repo, wire, *s);
                tree.on_damage = [&](auto& what) { faults += short_id(s->id) + ": " + what + "\n"; };
                while (auto* e = tree.next()) std::ranges::for_each(e->chunks, read);
            } catch (const Corrupt& e) { faults += short_id(s->id) + ": " + e.what() + "\n"; }
        }
        if (found != wanted) {
            faults += text(found.size(), " snapshots, not ", wanted.size(), ":");
            for (auto& id : found) faults += " " + short_id(id);
            faults += "\n";
        }
    } catch (const Error& e) { faults += e.what(); }
    return faults;
}
std::set<SnapshotId> snapshots_in(TestStore& store) {
    std::set<SnapshotId> ids;
    for (auto* s : open_repository(store)->snapshots()) ids.insert(s->id);
    return ids;
}

PruneOptions thorough(int64_t grace = kGrace) {
    PruneOptions o;
    o.max_unused = 0;
    o.grace = grace;
    o.connections = 1;
    return o;
}
Prune::Sum prune(Repository& repo, const PruneOptions& o) {
    Prune p(repo, o);
    p.plan();
    return p.run();
}

// ---- the scene ---------------------------------------------------------------------------------------

/// A source on the disk and a repository, in which two snapshots were forgotten: one of another source,
/// whose content is all unused but has come to lie in the source; one of the same source, of whose pack
/// a part is used. A pack that no segment names is there, too.
struct Scene {
    support::TempDir dir;
    TestStore fresh = new_repository(); // nothing was condemned yet
    TestStore condemned;                // a grace period ago
    TestStore needed;                   // as before, but one who had just looked relies on it
    std::set<std::string> old_packs;    // of `fresh`
    static constexpr const char *kHost = "host", *kOrphan = "packs/0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    static Bytes content(char of) { return noise(3000, uint64_t(of)); }
    void write(const std::string& path, View bytes) const { support::write_file(dir / path, string_of(bytes)); }
    static Snapshot record(const std::string& host) {
        Snapshot s;
        s.host = host;
        s.version = "1";
        return s;
    }
    static BackupOptions options() {
        BackupOptions o;
        o.connections = 1;
        return o;
    }
    Snapshot back_up(Repository& repo, const std::string& source = "src", const std::string& host = kHost, const BackupOptions& o = options()) const {
        auto result = Backup(repo, o).run((dir / source).string(), record(host));
        if (!result.refused.empty() || result.unreadable > 0) throw std::runtime_error("a backup that takes nothing: " + result.refused);
        return result.snapshot;
    }
    /// Standard input: what was in the other source, too.
    static Snapshot back_up_stream(Repository& repo) {
        int ends[2];
        if (pipe(ends) != 0) throw std::runtime_error("no pipe");
        Fd from(ends[0]), to(ends[1]);
        write_full(to.get(), content('a'), "a pipe");
        (void)to.close();
        Stream stream;
        stream.name = "stream";
        stream.fd = from.get();
        return Backup(repo, options()).run("stream", record("host"), &stream).snapshot;
    }

    Scene() : condemned(fresh), needed(fresh) {
        for (char c : {'a', 'b'}) write(text("other/", c), content(c));
        for (char c : {'c', 'd', 'k', 'v'}) write(text("src/", c), content(c));
        support::settle(); // so that what is unchanged is not read again
        auto other = back_up(*open_repository(fresh), "other", "other");
        auto before = back_up(*open_repository(fresh));
        support::fs::remove(dir / "src/d");
        back_up(*open_repository(fresh));
        forget(*open_repository(fresh), {&other, &before});
        fresh.put(kOrphan, content('o'));
        fresh.clock += 2 * kSettled;
        write("src/a", content('a')); // was in the snapshots that were forgotten
        write("src/e", content('d'));
        write("src/k", content('K')); // changed
        write("src/n", content('n')); // new
        for (auto& name : fresh.names("packs")) old_packs.insert(name);

        needed.objects = condemned.objects = fresh.objects;
        needed.stamps = condemned.stamps = fresh.stamps;
        needed.clock = condemned.clock = fresh.clock;
        prune(*open_repository(condemned), thorough());
        {
            auto looked = open_repository(needed);
            prune(*open_repository(needed), thorough());
            back_up(*looked);
            auto now = open_repository(needed);
            forget(*now, {now->snapshots().back()}); // so that there is more to condemn
        }
        condemned.clock += kGrace + 1;
        needed.clock += kGrace + 1;
    }
    static const Scene& get() {
        static const Scene scene;
        return scene;
    }
};

/// All schedules of some clients, which `cast` adds to a stage that begins with these objects.
class Rehearsal {
  public:
    Rehearsal(const TestStore& begin, std::function<void(Stage&)> cast) : begin_(begin), cast_(std::move(cast)) {
        TestStore copy(begin);
        base_ = snapshots_in(copy);
    }
    struct Count {
        size_t schedules = 0;
        size_t deleting = 0, rescuing = 0; // of these: packs were deleted; a backup copied what it had relied on
        size_t ambiguous = 0;              // a listing changed while it was under way
        size_t prunes_refused = 0, backups_refused = 0;
        std::string text() const {
            return ::text(schedules, " schedules; packs deleted in ", deleting, ", rescued in ", rescuing, "; ambiguous listings in ", ambiguous,
                          "; refused: ", prunes_refused, " prunes, ", backups_refused, " backups");
        }
    };
    Count count;

    /// With so many stops in all possible places.
    void run(size_t stops) {
        size_t clients = [&] {
            Stage stage(begin_);
            cast_(stage);
            auto n = stage.clients();
            stage.begin();
            return n;
        }();
        Schedule s;
        each_schedule(clients, stops, s, [&](auto& schedule) {
            bool ambiguous_one = false;
            auto in_vain = play(schedule, Seen::at_end, ambiguous_one);
            if (ambiguous_one)
                for (auto seen : kSeen)
                    if (seen != Seen::at_end) play(schedule, seen, ambiguous_one);
            count.ambiguous += ambiguous_one;
            return in_vain;
        });
    }

  private:
    static constexpr uint64_t kUsualPacks = 2; // that a backup sends: content and tree

    size_t play(const Schedule& schedule, Seen seen, bool& was_ambiguous) {
        Stage stage(begin_);
        stage.seen = seen;
        stage.removable = Scene::get().old_packs;
        cast_(stage);
        stage.begin();
        size_t in_vain = SIZE_MAX;
        for (size_t i = 0; i < schedule.stopped.size(); ++i) {
            auto [client, steps] = schedule.stopped[i];
            for (int n = 0; n < steps; ++n) stage.step(stage.client(client));
            if (in_vain == SIZE_MAX && stage.has_ended(stage.client(client))) in_vain = i;
        }
        if (in_vain != SIZE_MAX) return in_vain; // the same as one with fewer stops
        for (size_t c : schedule.rest) stage.to_its_end(stage.client(c));
        was_ambiguous |= stage.ambiguous;
        check(stage, text(schedule.text(), " listings ", int(seen)));
        return in_vain;
    }
    void check(Stage& stage, const std::string& schedule) {
        std::string all = schedule;
        auto wanted = base_;
        Count one;
        for (size_t i = 0; i < stage.clients(); ++i) {
            auto& c = stage.client(i);
            if (c.committed) wanted.insert(c.committed->id);
            one.deleting |= c.packs_removed > 0;
            one.rescuing |= c.committed && c.packs_sent > kUsualPacks;
            if (c.complaint.empty()) continue;
            ++(c.backup ? one.backups_refused : one.prunes_refused);
            all += "\n" + c.complaint;
        }
        ++count.schedules;
        count.deleting += one.deleting;
        count.rescuing += one.rescuing;
        count.prunes_refused += one.prunes_refused;
        count.backups_refused += one.backups_refused;
        auto faults = faults_in(stage.objects, wanted);
        for (int round = 0; faults.empty() && round < (count.schedules % 16 == 1 ? 2 : 1); ++round) {
            stage.objects.clock += kGrace + 1;
            try {
                prune(*open_repository(stage.objects), thorough());
            } catch (const Error& e) { faults += text("a prune alone: ", e.what(), "\n"); }
            faults += faults_in(stage.objects, wanted);
            if (!faults.empty()) faults += text("after a prune alone, ", round, "\n");
        }
        CHECK_MESSAGE(faults.empty(), all, "\n", faults);
    }

    const TestStore& begin_;
    std::function<void(Stage&)> cast_;
    std::set<SnapshotId> base_;
};

/// Deletes a file as soon as a backup says this on standard output.
class Vanishing : public std::streambuf {
  public:
    Vanishing(std::string line, std::string file) : line_(std::move(line)), file_(std::move(file)), before_(std::cout.rdbuf(this)) {}
    ~Vanishing() override { std::cout.rdbuf(before_); }
    Vanishing(const Vanishing&) = delete;
    Vanishing& operator=(const Vanishing&) = delete;

  private:
    int_type overflow(int_type c) override {
        said_ += char(c);
        if (said_.ends_with(line_)) ::unlink(file_.c_str());
        return c;
    }
    std::string line_, file_, said_;
    std::streambuf* before_;
};

void add_backup(Stage& stage, Clock::duration listing_lasts = {}, const char* host = Scene::kHost) {
    stage.add([host](Stage::Client& c) { c.committed = Scene::get().back_up(c.open(), "src", host); }, 1, listing_lasts).backup = true;
}
/// Of a source from which a file vanishes after its directory was read. One at a time.
void add_vanishing(Stage& stage) {
    stage.add([](Stage::Client& c) {
        Vanishing v("+ n\n", Scene::get().dir / "src/v");
        auto o = Scene::options();
        o.verbose = true;
        c.committed = Scene::get().back_up(c.open(), "src", Scene::kHost, o);
    }).backup = true;
}
void add_stream(Stage& stage, Clock::duration listing_lasts = {}) {
    stage.add([](Stage::Client& c) {
        // As one chunk of this content was in a snapshot before; a second one is new.
        c.committed = Scene::back_up_stream(c.open());
    }, 1, listing_lasts).backup = true;
}
void add_prune(Stage& stage, int64_t grace = kGrace, Clock::duration listing_lasts = {}) {
    stage.add([grace](Stage::Client& c) { prune(c.open(), thorough(grace)); }, 1, listing_lasts);
}
/// One that condemns, and another that deletes a grace period later.
void add_two_prunes(Stage& stage) {
    stage.add([](Stage::Client& c) {
        prune(c.open(), thorough());
        c.pass_time(kGrace + 1);
        prune(c.open(), thorough());
    }, 2);
}

} // namespace

TEST_CASE("prune, side by side: one that condemns and a backup") {
    Captured said;
    Rehearsal all(Scene::get().fresh, [](Stage& s) {
        add_backup(s);
        add_prune(s);
    });
    for (size_t stops : {0, 1, 2}) all.run(stops);
    MESSAGE(all.count.text());
    CHECK(all.count.schedules > 0);
    CHECK(all.count.rescuing > 0);
}
TEST_CASE("prune, side by side: one that deletes and a backup") {
    Captured said;
    Rehearsal all(Scene::get().needed, [](Stage& s) {
        add_backup(s);
        add_prune(s);
    });
    for (size_t stops : {0, 1}) all.run(stops);
    MESSAGE(all.count.text());
    CHECK(all.count.deleting > 0);
}
TEST_CASE("prune, side by side: a backup that lasts while one condemns and another deletes") {
    Captured said;
    Rehearsal all(Scene::get().fresh, [](Stage& s) {
        add_backup(s);
        add_two_prunes(s);
    });
    for (size_t stops : {0, 1}) all.run(stops);
    MESSAGE(all.count.text());
    CHECK(all.count.deleting > 0);
    CHECK(all.count.rescuing > 0);
    CHECK(all.count.backups_refused > 0);
}
TEST_CASE("prune, side by side: two that condemn and a backup") {
    Captured said;
    Rehearsal all(Scene::get().fresh, [](Stage& s) {
        add_backup(s);
        add_prune(s);
        add_prune(s);
    });
    for (size_t stops : {0, 1}) all.run(stops);
    MESSAGE(all.count.text());
    CHECK(all.count.rescuing > 0);
}
TEST_CASE("prune, side by side: two that delete and a backup") {
    Captured said;
    Rehearsal all(Scene::get().needed, [](Stage& s) {
        add_backup(s);
        add_prune(s);
        add_prune(s);
    });
    for (size_t stops : {0, 1}) all.run(stops);
    MESSAGE(all.count.text());
    CHECK(all.count.deleting > 0);
}
TEST_CASE("prune, side by side: one that condemns, one that deletes, and two backups") {
    Captured said;
    Rehearsal all(Scene::get().needed, [](Stage& s) {
        add_backup(s);
        add_prune(s, 100 * kGrace);
        add_prune(s);
        add_backup(s, {}, "another");
    });
    for (size_t stops : {0}) all.run(stops);
    MESSAGE(all.count.text());
    CHECK(all.count.deleting > 0);
}
