// Section 13: prune. First side by side with backups and other prunes, in every order of their
// operations up to a bound; then killed at every operation; then what it deletes, keeps and refuses.

#include <numeric>

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

    class Client : public PlainStore {
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
            bool before = at_once_;
            at_once_ = before || has_begun;
            load_from(mine, *this);
            at_once_ = before;
            mine.repo->listing_lasts = listing_lasts_;
            return *mine.repo;
        }
        /// The server's clock goes on. Not while somebody lists or has looked for the last time before it
        /// writes a segment: that this look and the end of the commit lie no grace period apart is what
        /// all relies on.
        void pass_time(int64_t seconds) {
            act([&] { stage_.objects.clock += seconds; }, true);
        }

        /// All that `f` does is one step.
        template <class F> void at_once(F f) {
            act([] {});
            at_once_ = true;
            f();
            at_once_ = false;
        }

        bool backup = false;               // or else a prune
        bool has_begun = false;            // it has opened the repository before all else happens
        bool others_delete = false;        // so that it matters when it reads
        uint64_t usual_packs = 2;          // that it sends: content and tree
        std::optional<Snapshot> committed; // by a backup
        std::string complaint;             // what an Error said that ended it
        uint64_t packs_sent = 0, packs_removed = 0;

        std::vector<Listed> list(const std::string& dir) override {
            std::vector<Listed> before, after;
            act([&] {
                before = stage_.objects.list(dir);
                listing_ = true;
            });
            act([&] {
                after = stage_.objects.list(dir);
                listing_ = false;
            });
            return stage_.choose(dir, before, after);
        }
        Bytes read(const std::string& name, uint64_t offset, size_t length) override {
            Bytes bytes;
            if (!others_delete || !stage_.removable.contains(name))
                return stage_.objects.read(name, offset, length);
            act([&] { bytes = stage_.objects.read(name, offset, length); });
            return bytes;
        }
        void create(const std::string& name, View data) override {
            bool segment = name.starts_with("index/");
            committing_ = segment;
            if (segment) act([&] { stage_.objects.put(name, data.first(data.size() / 2)); });
            act([&] {
                if (segment)
                    stage_.objects.put(name, data);
                else
                    stage_.objects.create(name, data);
                committing_ = false;
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
        void truncate(const std::string&) override { throw Error("not here"); }
        void rename(const std::string&, const std::string&) override { throw Error("not here"); }

      private:
        friend class Stage;
        template <class F> void act(F f, bool passes_time = false) {
            if (at_once_) return f();
            std::unique_lock lock(stage_.mutex_);
            auto ticket = ++asked_;
            wants_time_ = passes_time;
            stage_.changed_.notify_one();
            may_go_on_.wait(lock, [&] { return granted_ >= ticket; });
            lock.unlock();
            std::exception_ptr failed;
            try {
                f();
            } catch (...) {
                failed = std::current_exception();
            }
            lock.lock();
            wants_time_ = false;
            ++done_; // the stage waits until the next one is asked for
            if (failed) std::rethrow_exception(failed);
        }
        void run() {
            try {
                play_(*this);
            } catch (const Error& e) {
                complaint = e.what();
            } catch (const std::exception& e) {
                stage_.crash(e.what());
            }
            std::lock_guard lock(stage_.mutex_);
            finished_ = true;
            stage_.changed_.notify_one();
        }

        Stage& stage_;
        Play play_;
        Clock::duration listing_lasts_;
        std::vector<std::unique_ptr<Reusable>> repositories_;
        size_t opened_ = 0;
        uint64_t asked_ = 0, granted_ = 0, done_ = 0; // operations
        bool wants_time_ = false, finished_ = false;
        std::atomic<bool> at_once_{false}, listing_{false}, committing_{false};
        std::condition_variable may_go_on_;
        std::thread thread_;
    };

    explicit Stage(const TestStore& begin) : objects(begin) {}
    ~Stage() {
        for (auto& c : clients_)
            if (c->thread_.joinable()) to_its_end(*c);
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
            auto busy = std::ranges::find_if(clients_, [&](auto& o) {
                return o.get() != &c && !o->finished_ && (o->listing_ || o->committing_);
            });
            if (busy == clients_.end()) break;
            lock.unlock();
            step(**busy);
            lock.lock();
        }
        if (c.finished_) return false;
        ++c.granted_;
        c.may_go_on_.notify_one();
        wait(lock, c);
        return true;
    }
    bool has_ended(Client& c) {
        std::lock_guard lock(mutex_);
        return c.finished_;
    }
    void to_its_end(Client& c) {
        while (step(c)) {
        }
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
    std::vector<Listed> choose(const std::string& dir, const std::vector<Listed>& before,
                               const std::vector<Listed>& after) {
        auto same = [](auto& a, auto& b) { return a.name == b.name && a.size == b.size; };
        if (std::ranges::equal(before, after, same)) return after;
        ambiguous = true;
        if (seen == Seen::at_end) return after;
        if (seen == Seen::at_begin) return before;
        auto has = [](auto& all, auto& name) {
            return std::ranges::find(all, name, &Listed::name) != all.end();
        };
        std::vector<Listed> found;
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
    std::condition_variable changed_;  // a client asks for its next operation or has ended
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
size_t each_schedule(size_t clients, size_t stops, bool two_orders, Schedule& s,
                     const std::function<size_t(const Schedule&)>& run) {
    if (stops == 0) {
        size_t in_vain = SIZE_MAX;
        s.rest.resize(clients);
        std::iota(s.rest.begin(), s.rest.end(), size_t(0));
        do {
            if (two_orders && !std::ranges::is_sorted(s.rest) &&
                !std::ranges::is_sorted(s.rest, std::greater{}))
                continue;
            if (s.stopped.empty() || s.stopped.back().first != s.rest[0]) in_vain = std::min(in_vain, run(s));
        } while (in_vain == SIZE_MAX && std::ranges::next_permutation(s.rest).found);
        return in_vain;
    }
    size_t depth = s.stopped.size();
    for (size_t c = 0; c < clients; ++c) {
        if (depth > 0 && s.stopped.back().first == c) continue;
        for (int steps = 1;; ++steps) {
            s.stopped.emplace_back(c, steps);
            auto in_vain = each_schedule(clients, stops - 1, two_orders, s, run);
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
        auto hasher = repo->keys.hasher();
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
            } catch (const Corrupt& e) {
                faults += short_id(s->id) + ": " + e.what() + "\n";
            }
        }
        if (found != wanted) {
            faults += text(found.size(), " snapshots, not ", wanted.size(), ":");
            for (auto& id : found) faults += " " + short_id(id);
            faults += "\n";
        }
    } catch (const Error& e) {
        faults += e.what();
    }
    return faults;
}
std::set<SnapshotId> snapshots_in(TestStore& store) {
    std::set<SnapshotId> ids;
    for (auto* s : open_repository(store)->snapshots()) ids.insert(s->id);
    return ids;
}

PruneOptions thorough(int64_t grace = kGrace) {
    PruneOptions o;
    o.patience = {};
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
    static constexpr const char *kHost = "host",
                                *kOrphan =
                                    "packs/0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    static Bytes content(char of) { return noise(3000, uint64_t(of)); }
    void write(const std::string& path, View bytes) const {
        support::write_file(dir / path, string_of(bytes));
    }
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
    Snapshot back_up(Repository& repo, const std::string& source = "src", const std::string& host = kHost,
                     const BackupOptions& o = options()) const {
        auto result = Backup(repo, o).run((dir / source).string(), record(host));
        if (!result.refused.empty() || result.unreadable > 0)
            throw std::runtime_error("a backup that takes nothing: " + result.refused);
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
        fresh.put(kOrphan, content('o'));
        fresh.clock += 2 * kSettled;
        forget(*open_repository(fresh), {&other, &before});
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
    Rehearsal(const TestStore& begin, std::function<void(Stage&)> cast)
        : begin_(begin), cast_(std::move(cast)) {
        TestStore copy(begin);
        base_ = snapshots_in(copy);
        auto one_more = open_repository(copy); // so that the processes below find all they need made
        Stage stage(begin_);
        cast_(stage);
    }
    struct Count {
        size_t schedules = 0;
        size_t deleting = 0,
               rescuing = 0;  // of these: packs were deleted; a backup copied what it had relied on
        size_t ambiguous = 0; // a listing changed while it was under way
        size_t prunes_refused = 0, backups_refused = 0;
        std::string text() const {
            return ::text(schedules, " schedules; packs deleted in ", deleting, ", rescued in ", rescuing,
                          "; ambiguous listings in ", ambiguous, "; refused: ", prunes_refused, " prunes, ",
                          backups_refused, " backups");
        }
    };
    Count count;
    bool two_orders = false; // the rest goes on in two orders only, not all
    size_t processes = 4;    // clients wait for each other most of the time, so that more than processors pay

    /// With so many stops in all possible places.
    void run(size_t stops) {
        std::string failed;
        if (processes == 1) {
            run_share(stops, 0, 1);
            failed = failures_;
        } else {
            std::vector<std::unique_ptr<Share>> shares;
            for (size_t i = 0; i < (stops == 0 ? 1 : processes); ++i)
                shares.push_back(std::make_unique<Share>(*this, stops, i));
            for (auto& s : shares) failed += s->collect(*this);
        }
        CHECK_MESSAGE(failed.empty(), failed.substr(0, 5000));
    }

  private:
    static constexpr auto kCounts = {&Count::schedules, &Count::deleting,       &Count::rescuing,
                                     &Count::ambiguous, &Count::prunes_refused, &Count::backups_refused};

    /// A process that plays one schedule of so many.
    class Share {
      public:
        Share(Rehearsal& all, size_t stops, size_t number) {
            int ends[2];
            if (pipe(ends) != 0) throw std::runtime_error("no pipe");
            from_ = Fd(ends[0]);
            Fd to(ends[1]);
            std::cout.flush(); // or both would print what waits there
            child_ = fork();
            if (child_ < 0) throw std::runtime_error("no process");
            if (child_ > 0) return;
            signal(SIGALRM, SIG_DFL);
            alarm(300); // a client that goes on for ever
            std::string said;
            try {
                all.count = {};
                all.run_share(stops, number, all.processes);
                for (auto c : kCounts) said += text(all.count.*c, " ");
            } catch (const std::exception& e) {
                all.failures_ += e.what();
            }
            said += "\n" + all.failures_;
            write_full(to.get(), as_bytes(said), "a pipe");
            leave_child();
        }
        /// What failed.
        std::string collect(Rehearsal& all) {
            std::string said;
            for (char c; ::read(from_.get(), &c, 1) == 1;) said += c;
            int status = 0;
            waitpid(child_, &status, 0);
            if (status != 0) return text("a process ended with ", status, " and said ", said);
            std::istringstream in(said);
            for (auto c : kCounts) {
                size_t n = 0;
                in >> n;
                all.count.*c += n;
            }
            return said.substr(said.find('\n') + 1);
        }

      private:
        Fd from_;
        pid_t child_ = -1;
    };

    void run_share(size_t stops, size_t share, size_t shares) {
        size_t clients = [&] {
            Stage stage(begin_);
            cast_(stage);
            stage.begin();
            return stage.clients();
        }();
        auto play_all = [&](const Schedule& schedule) {
            if (failures_.size() > 5000) return size_t(0); // that is enough
            bool ambiguous = false;
            auto in_vain = play(schedule, Seen::at_end, ambiguous);
            if (ambiguous)
                for (auto seen : kSeen)
                    if (seen != Seen::at_end) play(schedule, seen, ambiguous);
            count.ambiguous += ambiguous;
            return in_vain;
        };
        Schedule s;
        if (stops == 0) each_schedule(clients, 0, two_orders, s, play_all);
        for (size_t c = 0; stops > 0 && c < clients; ++c)
            for (int steps = 1 + int(share);; steps += int(shares)) {
                s.stopped = {{c, steps}};
                if (each_schedule(clients, stops - 1, two_orders, s, play_all) == 0) break;
            }
    }
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
            one.rescuing |= c.committed && c.packs_sent > c.usual_packs;
            if (c.complaint.empty()) continue;
            ++(c.backup ? one.backups_refused : one.prunes_refused);
            all += "\n" + c.complaint;
        }
        ++count.schedules;
        count.deleting += one.deleting;
        count.rescuing += one.rescuing;
        count.prunes_refused += one.prunes_refused;
        count.backups_refused += one.backups_refused;
        std::string faults;
        for (int round = 0; faults.empty() && round < (count.schedules % 16 == 1 ? 2 : 1); ++round) {
            stage.objects.clock += kGrace + 1;
            try {
                prune(*open_repository(stage.objects), thorough());
            } catch (const Error& e) {
                faults += text("a prune alone: ", e.what(), "\n");
            }
            faults += faults_in(stage.objects, wanted);
            if (!faults.empty()) faults += text("after a prune alone, ", round, "\n");
        }
        if (!faults.empty()) failures_ += all + "\n" + faults;
    }

    const TestStore& begin_;
    std::function<void(Stage&)> cast_;
    std::set<SnapshotId> base_;
    std::string failures_;
};

/// Deletes a file as soon as a backup says this on standard output.
class Vanishing : public std::streambuf {
  public:
    Vanishing(std::string line, std::string file)
        : line_(std::move(line)), file_(std::move(file)), before_(std::cout.rdbuf(this)) {}
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

Stage::Client& add_backup(Stage& stage, Clock::duration listing_lasts = {}, const char* host = Scene::kHost) {
    auto& client =
        stage.add([host](Stage::Client& c) { c.committed = Scene::get().back_up(c.open(), "src", host); }, 1,
                  listing_lasts);
    client.backup = true;
    return client;
}
/// Of a source from which a file vanishes after its directory was read. One at a time.
void add_vanishing(Stage& stage) {
    stage
        .add([](Stage::Client& c) {
            Vanishing v("+ n\n", Scene::get().dir / "src/v");
            auto o = Scene::options();
            o.verbose = true;
            c.committed = Scene::get().back_up(c.open(), "src", Scene::kHost, o);
        })
        .backup = true;
}
Stage::Client& add_stream(Stage& stage, Clock::duration listing_lasts = {}) {
    auto& client =
        stage.add([](Stage::Client& c) { c.committed = Scene::back_up_stream(c.open()); }, 1, listing_lasts);
    client.backup = true;
    client.usual_packs = 1; // all of its content is there
    return client;
}
Stage::Client& add_prune(Stage& stage, int64_t grace = kGrace, Clock::duration listing_lasts = {}) {
    return stage.add([grace](Stage::Client& c) { prune(c.open(), thorough(grace)); }, 1, listing_lasts);
}
/// Two that condemn, in one step each, first what nothing needs, then the rest; and a grace period later
/// one that deletes.
void add_prunes(Stage& stage) {
    stage.add(
        [](Stage::Client& c) {
            auto no_copies = thorough();
            no_copies.max_repack = 0;
            c.at_once([&] { prune(c.open(), no_copies); });
            c.at_once([&] { prune(c.open(), thorough()); });
            c.pass_time(kGrace + 1);
            prune(c.open(), thorough());
        },
        3);
}

} // namespace

// Bounds: with two clients all schedules with at most two stops, with three or a pipe at most one, with
// four at most one and, of the orders in which the rest goes on, two. About 4500 schedules, each with
// four kinds of listings where that makes a difference, and each of them followed by a further grace
// period, a prune alone and a look at every chunk of every snapshot.

TEST_CASE("prune, side by side: one that condemns and a backup") { // about 750 schedules
    Captured said;
    Rehearsal all(Scene::get().fresh, [](Stage& s) {
        add_backup(s);
        add_prune(s);
    });
    for (size_t stops : {0u, 1u, 2u}) all.run(stops);
    INFO(all.count.text());
    CHECK(all.count.schedules > 400);
    CHECK(all.count.rescuing > 50);
    CHECK(all.count.ambiguous > 50);
    CHECK(all.count.deleting == 0);
    CHECK(all.count.backups_refused == 0);
}

TEST_CASE("prune, side by side: one that condemns and a backup from a pipe, of what vanishes, or one that "
          "just looked") {
    Captured said;
    using Cast = void (*)(Stage&);
    std::pair<const char*, Cast> variants[]{
        {"a stream", [](Stage& s) { add_stream(s); }},
        {"a file vanishes", [](Stage& s) { add_vanishing(s); }},
        {"it looked seconds ago", [](Stage& s) { add_backup(s, kListingFresh); }},
        {"a stream, it looked seconds ago", [](Stage& s) { add_stream(s, kListingFresh); }},
    };
    for (auto& [variant, cast] : variants) {
        auto& what = variant;
        INFO(what);
        Rehearsal all(Scene::get().fresh, [cast = cast](Stage& s) {
            cast(s);
            add_prune(s);
        });
        all.processes = 1; // the file is there only once
        for (size_t stops : {0u, 1u}) all.run(stops);
        INFO(all.count.text());
        CHECK(all.count.schedules > 20);
        CHECK(all.count.backups_refused == 0);
    }
}

TEST_CASE("prune, side by side: one that deletes and a backup") { // about 1350
    Captured said;
    support::fs::remove(Scene::get().dir /
                        "src/v"); // so that of a pack on which the backup relies too little is used
    Rehearsal all(Scene::get().needed, [](Stage& s) {
        add_backup(s).others_delete = true;
        add_prune(s);
    });
    for (size_t stops : {0u, 1u, 2u}) all.run(stops);
    INFO(all.count.text());
    CHECK(all.count.schedules > 400);
    CHECK(all.count.deleting > 400);
    CHECK(all.count.rescuing > 0);
}

TEST_CASE("prune, side by side: one that deletes and a backup from a pipe, or of what was forgotten only") {
    Captured said;
    Rehearsal stream(Scene::get().needed, [](Stage& s) {
        add_stream(s).others_delete = true;
        add_prune(s);
    });
    for (size_t stops : {0u, 1u}) stream.run(stops);
    CHECK(stream.count.deleting > 20);
    Rehearsal condemned(Scene::get().condemned, [](Stage& s) {
        add_backup(s, kListingFresh).others_delete = true;
        add_prune(s);
    });
    for (size_t stops : {0u, 1u}) condemned.run(stops);
    CHECK(condemned.count.deleting > 20);
}

TEST_CASE("prune, side by side: a backup that lasts while one condemns and, a grace period later, another "
          "deletes") { // about 970
    Captured said;
    Rehearsal all(Scene::get().fresh, [](Stage& s) {
        auto& backup = add_backup(s);
        backup.has_begun = backup.others_delete = true;
        add_prunes(s);
    });
    for (size_t stops : {0u, 1u, 2u}) all.run(stops);
    INFO(all.count.text());
    CHECK(all.count.schedules > 400);
    CHECK(all.count.deleting > 400);
    CHECK(all.count.rescuing > 20);
    CHECK(all.count.backups_refused > 20); // what they relied on had gone: nothing was committed
}

TEST_CASE("prune, side by side: a backup from a pipe that lasts while one condemns and another deletes") {
    Captured said;
    Rehearsal all(Scene::get().fresh, [](Stage& s) {
        auto& stream = add_stream(s);
        stream.has_begun = stream.others_delete = true;
        add_prunes(s);
    });
    for (size_t stops : {0u, 1u}) all.run(stops);
    CHECK(all.count.deleting > 50);
    CHECK(all.count.rescuing > 0);
    CHECK(all.count.backups_refused > 0);
}

TEST_CASE("prune, side by side: two that condemn and a backup") { // about 400
    Captured said;
    Rehearsal all(Scene::get().fresh, [](Stage& s) {
        add_backup(s);
        add_prune(s);
        add_prune(s);
    });
    for (size_t stops : {0u, 1u}) all.run(stops);
    INFO(all.count.text());
    CHECK(all.count.schedules > 200);
    CHECK(all.count.rescuing > 20);
}

TEST_CASE("prune, side by side: two that delete and a backup") { // about 580
    Captured said;
    Rehearsal all(Scene::get().needed, [](Stage& s) {
        add_backup(s).others_delete = true;
        add_prune(s).others_delete = true;
        add_prune(s).others_delete = true;
    });
    for (size_t stops : {0u, 1u}) all.run(stops);
    INFO(all.count.text());
    CHECK(all.count.schedules > 200);
    CHECK(all.count.deleting > 200);
}

TEST_CASE("prune, side by side: one that condemns, one that deletes, and two backups") { // about 250
    Captured said;
    Rehearsal all(Scene::get().needed, [](Stage& s) {
        add_backup(s).others_delete = true;
        add_prune(s, 100 * kGrace).others_delete = true;
        add_prune(s).others_delete = true;
        add_backup(s, {}, "another").others_delete = true;
    });
    all.two_orders = true;
    for (size_t stops : {0u, 1u}) all.run(stops);
    INFO(all.count.text());
    CHECK(all.count.schedules > 50);
    CHECK(all.count.deleting > 50);
}

// ---- killed ------------------------------------------------------------------------------------------

namespace {

/// What has to be left after enough prunes: the snapshots, and nothing that they do not need.
void check_settles(TestStore& store, const std::set<SnapshotId>& wanted) {
    for (int round = 0; round < 3; ++round) {
        store.clock += kGrace + 1;
        write_segment(*open_repository(store), {}); // as a backup does: it notes what is torn
        CHECK_NOTHROW(prune(*open_repository(store), thorough()));
    }
    CHECK(faults_in(store, wanted) == "");
    auto repo = open_repository(store);
    auto plan = Prune(*repo, thorough()).plan();
    CHECK(plan.empty());
    CHECK(plan.all.packs > 0);
    size_t packs = 0;
    for (auto& p : repo->index.packs()) packs += p.present;
    CHECK(packs == plan.all.packs);
}

/// A program that is killed or a connection that does not come back, at the k-th operation: that one is
/// not begun, or half done, or done without an answer; no other follows.
struct Mortal : PlainStore {
    enum How { before, half, after };
    TestStore& objects;
    int left;
    How how;
    bool interrupted;
    bool changing = false; // the last operation was to change something
    std::mutex mutex;
    Mortal(TestStore& s, int k, How h, bool i) : objects(s), left(k), how(h), interrupted(i) {}
    [[noreturn]] void die() const {
        if (interrupted) throw Interrupted();
        throw ConnectionLost("killed");
    }
    /// Whether this one is the last.
    bool last() {
        std::lock_guard lock(mutex);
        if (left <= 0) die();
        return --left == 0;
    }
    std::vector<Listed> list(const std::string& dir) override {
        if (last()) die();
        return objects.list(dir);
    }
    Bytes read(const std::string& name, uint64_t offset, size_t length) override {
        if (last()) die();
        return objects.read(name, offset, length);
    }
    void create(const std::string& name, View data) override {
        bool end = changing = last();
        if (!end || how == after)
            objects.create(name, data);
        else if (how == half)
            objects.put(name, data.first(data.size() / 2));
        if (end) die();
    }
    void remove(const std::string& name) override {
        bool end = changing = last();
        if (!end || how == after) objects.remove(name);
        if (end) die();
    }
    void make_directory(const std::string&) override { die(); }
    void truncate(const std::string&) override { die(); }
    void rename(const std::string&, const std::string&) override { die(); }
};

} // namespace

TEST_CASE("prune, killed at any operation: all snapshots stay, and later ones finish the work") {
    Captured said;
    auto& scene = Scene::get();
    struct {
        const char* what;
        const TestStore& begin;
        int64_t grace;
    } cases[]{
        {"condemning", scene.fresh, kGrace}, {"deleting", scene.needed, kGrace}, {"at once", scene.fresh, 0}};
    for (auto& [name, begin, grace] : cases) {
        auto& what = name;
        TestStore untouched(begin);
        auto wanted = snapshots_in(untouched);
        int deaths = 0, torn = 0;
        for (int k = 1;; ++k) {
            bool ended = false;
            for (auto how : {Mortal::before, Mortal::half, Mortal::after}) {
                INFO(what, ": killed at operation ", k, ", ", int(how));
                TestStore store(begin);
                Mortal mortal(store, k, how, (k + how) % 2 == 0);
                try {
                    prune(*open_repository(mortal), thorough(grace));
                    ended = true;
                } catch (const Error&) {
                    ++deaths;
                }
                g_stop_by = 0;
                if (ended) break;
                auto repo = open_repository(store);
                CHECK(repo->damage.empty());
                torn += !repo->doubts.empty();
                if (!repo->doubts.empty()) CHECK_THROWS_AS(Prune(*repo, thorough()).plan(), Error);
                check_settles(store, wanted);
                if (!mortal.changing) break; // looking half is not looking
            }
            if (ended) break;
        }
        INFO(what, ": ", deaths);
        CHECK(deaths > 12);
        CHECK(torn > 0);
    }
}

// ---- one alone ---------------------------------------------------------------------------------------

namespace {

/// A file of these chunks, which are stored with it.
Entry stored_file(Packer& packer, const std::string& path, const std::vector<Bytes>& chunks) {
    auto e = file(path, 0);
    for (auto& c : chunks) {
        e.chunks.push_back(packer.put(Kind::data, c));
        e.size += c.size();
    }
    return e;
}
/// A snapshot of these files (path and chunks), in this order, in a run of its own.
Snapshot store_snapshot(Store& store, uint64_t seed,
                        const std::vector<std::pair<std::string, std::vector<Bytes>>>& files) {
    auto repo = open_repository(store);
    Packer packer(*repo, 1, kCheckpoint);
    Chunker chunker(repo->keys.gear());
    TreeWriter tree(packer, chunker, false);
    for (auto& [path, chunks] : files) tree.add(stored_file(packer, path, chunks));
    auto s = sample_snapshot(seed);
    s.tree = tree.finish();
    packer.flush(&s);
    packer.checkpoint(snapshot_added(s));
    return s;
}
void forget_all(Store& store, const std::vector<const Snapshot*>& gone) {
    forget(*open_repository(store), gone);
}
Prune::Plan plan_of(Store& store, const PruneOptions& o = thorough()) {
    return Prune(*open_repository(store), o).plan();
}
Prune::Sum prune(Store& store, const PruneOptions& o = thorough()) {
    return prune(*open_repository(store), o);
}
size_t bytes_in(const TestStore& store, const char* dir) {
    size_t sum = 0;
    for (auto& name : store.names(dir)) sum += store.objects.at(name).size();
    return sum;
}
/// The packs that hold this chunk.
std::set<std::string> packs_with(TestStore& store, View chunk) {
    auto repo = open_repository(store);
    std::set<std::string> names;
    for (auto& p : repo->index.places(repo->keys.hasher()(chunk)))
        names.insert(object_name(Name::packs, repo->index.pack(repo->index.frame(p.frame)).name));
    return names;
}

} // namespace

TEST_CASE("prune: where there is nothing to do it plans nothing") {
    TestStore store = new_repository();
    CHECK(plan_of(store).empty());
    auto s = store_snapshot(store, 1, {{"a", {noise(1000, 1)}}, {"b", {noise(1000, 2)}}});
    store.clock += 2 * kGrace;
    store_snapshot(store, 2, {{"a", {noise(1000, 1)}}, {"c", {noise(1000, 3)}}});
    auto before = store.objects;
    CHECK(plan_of(store).empty());
    CHECK(store.objects == before);
    forget_all(store, {&s});
    CHECK_FALSE(plan_of(store).empty());
}

TEST_CASE("prune: deletes a grace period after it condemned, not a second before, by the server's clock") {
    TestStore store = new_repository();
    auto gone = store_snapshot(store, 1, {{"a", {noise(5000, 1)}}});
    auto stays = store_snapshot(store, 2, {{"b", {noise(5000, 2)}}});
    forget_all(store, {&gone});
    auto packs = store.names("packs");
    REQUIRE(packs.size() == 4);
    store.clock += 100;
    auto plan = plan_of(store);
    CHECK(plan.condemn.packs == 2);
    CHECK(plan.due.packs + plan.waiting.packs + plan.copy == 0);
    CHECK(prune(store).packs == 0);
    CHECK(store.names("packs") == packs);
    auto condemned = store.clock;
    for (int64_t later : {int64_t(0), int64_t(1), kGrace / 2, kGrace - 1}) {
        store.clock = condemned + later;
        plan = plan_of(store);
        CHECK(plan.condemn.packs == 0);
        CHECK(plan.waiting.packs == 2);
        CHECK(plan.due.packs == 0);
        CHECK(prune(store).packs == 0);
        CHECK(store.names("packs") == packs);
    }
    store.clock = condemned + kGrace;
    auto deleted = prune(store);
    CHECK(deleted.packs == 2);
    CHECK(store.names("packs").size() == 2);
    CHECK(faults_in(store, {stays.id}) == "");
    CHECK(plan_of(store).empty());
    CHECK(prune(store).packs == 0);
}

TEST_CASE("prune: --now waits for nothing") {
    TestStore store = new_repository();
    auto gone = store_snapshot(store, 1, {{"a", {noise(5000, 1)}}, {"b", {noise(5000, 2)}}});
    auto stays = store_snapshot(store, 2, {{"b", {noise(5000, 2)}}});
    forget_all(store, {&gone});
    store.put(Scene::kOrphan, noise(100, 1));    // this second
    CHECK(prune(store, thorough(0)).packs == 3); // with the one of which a part was copied
    CHECK(store.names("packs").size() == 2);
    CHECK(faults_in(store, {stays.id}) == "");
    CHECK(plan_of(store).empty());
}

TEST_CASE("prune: packs that no segment names are condemned when they are an hour old, and deleted a grace "
          "period later") {
    TestStore store = new_repository();
    store.clock = now_ns() / 1'000'000'000; // what is young is so by the local clock as well
    auto s = store_snapshot(store, 1, {{"a", {noise(1000, 1)}}});
    store.put(Scene::kOrphan, noise(100, 1));
    for (int64_t age : {int64_t(0), kSettled - 1}) {
        store.clock = store.stamps[Scene::kOrphan] + age;
        write_segment(*open_repository(store), {}); // the server says what time it is
        CHECK(plan_of(store).empty());
    }
    store.clock = store.stamps[Scene::kOrphan] + kSettled;
    write_segment(*open_repository(store), {});
    CHECK(plan_of(store).condemn.packs == 1);
    CHECK(prune(store).packs == 0);
    CHECK(plan_of(store).condemn.packs == 0);
    CHECK(plan_of(store).waiting.packs == 1);
    store.clock += kGrace - 1;
    CHECK(prune(store).packs == 0);
    CHECK(store.objects.contains(Scene::kOrphan));
    store.clock += 1;
    CHECK(prune(store).packs == 1);
    CHECK_FALSE(store.objects.contains(Scene::kOrphan));
    CHECK(faults_in(store, {s.id}) == "");
}

TEST_CASE("prune: of more than 100,000 packs that no segment names the first go in one run, the others in "
          "the next") {
    TestStore store = new_repository();
    store.clock = now_ns() / 1'000'000'000;
    auto s = store_snapshot(store, 1, {{"a", {noise(1000, 1)}}});
    size_t before = store.names("packs").size();
    for (uint64_t i = 0; i < 100'050; ++i) store.put(text("packs/", hex(sha256(as_bytes(text(i))))), {});
    store.clock += kSettled;
    write_segment(*open_repository(store), {});
    CHECK(plan_of(store).condemn.packs == 100'000);
    CHECK(prune(store).packs == 0);
    CHECK(plan_of(store).condemn.packs == 50);
    store.clock += kGrace;
    CHECK(prune(store).packs == 100'000);
    CHECK(store.names("packs").size() == before + 50);
    store.clock += kGrace;
    CHECK(prune(store).packs == 50);
    CHECK(store.names("packs").size() == before);
    CHECK(plan_of(store).empty());
    CHECK(faults_in(store, {s.id}) == "");
}

TEST_CASE("prune: an upload that lasted longer than others wait is named in time, or sent again") {
    TestStore store = new_repository();
    auto repo = open_repository(store);
    repo->listing_lasts = {};
    Packer packer(*repo, 1, kCheckpoint);
    Chunker chunker(repo->keys.gear());
    TreeWriter tree(packer, chunker, false);
    auto content = noise(5000, 1);
    tree.add(stored_file(packer, "a", {content}));
    auto s = sample_snapshot(1);
    s.tree = tree.finish();
    packer.flush(&s); // durable, and then the client sleeps
    auto packs = store.names("packs");
    store.clock += kSettled;
    write_segment(*open_repository(store), {});
    CHECK(prune(store).packs == 0);
    CHECK(plan_of(store).waiting.packs == packs.size());
    bool deleted = false;
    SUBCASE("it wakes before they are deleted") {}
    SUBCASE("it wakes later") {
        store.clock += kGrace;
        CHECK(prune(store).packs == packs.size());
        deleted = true;
    }
    if (deleted) {
        CHECK_THROWS_AS(packer.checkpoint(snapshot_added(s)), Error);
        CHECK(faults_in(store, {}) == "");
        return;
    }
    packer.checkpoint(snapshot_added(s));
    store.clock += kGrace;
    CHECK(prune(store).packs == packs.size());
    CHECK(faults_in(store, {s.id}) == "");
}

TEST_CASE("prune: no more is copied than --max-unused and --max-repack say") {
    TestStore store = new_repository();
    std::vector<std::pair<std::string, std::vector<Bytes>>> files;
    for (uint64_t i = 0; i < 10; ++i) { // packs that are half in use
        store_chunks(*open_repository(store), {noise(10'000, 2 * i), noise(10'000, 2 * i + 1)});
        files.push_back({text(i), {noise(10'000, 2 * i)}});
    }
    auto s = store_snapshot(store, 1, files);
    auto with = [](double max_unused, uint64_t max_repack = UINT64_MAX) {
        auto o = thorough();
        o.max_unused = max_unused;
        o.max_repack = max_repack;
        return o;
    };
    CHECK(plan_of(store, with(1)).empty());
    CHECK(plan_of(store, with(0.25)).condemn.packs == 8); // 100 kB are used: 25 kB may stay unused
    CHECK(plan_of(store, with(0.5)).condemn.packs == 5);
    CHECK(plan_of(store, with(0)).condemn.packs == 10);
    CHECK(plan_of(store, with(0, 35'000)).condemn.packs == 3);
    CHECK(plan_of(store, with(0, 35'000)).copy <= 35'000);
    CHECK(plan_of(store, with(0, 0)).empty());
    auto before = bytes_in(store, "packs");
    auto plan = plan_of(store, with(0.25));
    prune(store, with(0.25));
    CHECK(bytes_in(store, "packs") - before < plan.copy * 12 / 10);
    CHECK(bytes_in(store, "packs") - before > 80'000);
    store.clock += kGrace;
    CHECK(prune(store, with(0.25)).packs == 8);
    CHECK(faults_in(store, {s.id}) == "");
    CHECK(plan_of(store, with(0.25)).empty());
    SUBCASE("what nothing needs goes even if nothing may be copied") {
        forget_all(store, {&s});
        CHECK(plan_of(store, with(1, 0)).condemn.packs == store.names("packs").size());
    }
}

TEST_CASE("prune: the emptiest packs are copied first") {
    TestStore store = new_repository();
    std::vector<std::pair<std::string, std::vector<Bytes>>> files;
    std::vector<Bytes> first_of_pack;
    for (uint64_t used : {3u, 1u, 2u}) { // of four
        std::vector<Bytes> chunks;
        for (uint64_t i = 0; i < 4; ++i) chunks.push_back(noise(10'000, 10 * used + i));
        store_chunks(*open_repository(store), chunks);
        first_of_pack.push_back(chunks[0]);
        files.push_back({text(files.size()), {chunks.begin(), chunks.begin() + long(used)}});
    }
    auto s = store_snapshot(store, 1, files);
    auto o = thorough();
    o.max_repack = 15'000;
    prune(store, o);
    store.clock += kGrace;
    auto fullest = packs_with(store, first_of_pack[0]), emptiest = packs_with(store, first_of_pack[1]);
    CHECK(emptiest.size() == 2); // there and condemned
    CHECK(fullest.size() == 1);
    CHECK(prune(store, o).packs == 1);
    CHECK(packs_with(store, first_of_pack[1]).size() == 1);
    CHECK(packs_with(store, first_of_pack[0]) == fullest);
    CHECK(faults_in(store, {s.id}) == "");
}

TEST_CASE("prune: many small packs become one") {
    TestStore store = new_repository();
    std::vector<std::pair<std::string, std::vector<Bytes>>> files;
    for (uint64_t i = 0; i < 70; ++i) {
        store_chunks(*open_repository(store), {noise(100, i)});
        files.push_back({text(100 + i), {noise(100, i)}});
        if (i == 20) {
            TestStore few(store);
            store_snapshot(few, 1, files);
            CHECK(plan_of(few).empty());
        }
    }
    auto s = store_snapshot(store, 1, files);
    prune(store);
    store.clock += kGrace;
    prune(store);
    CHECK(store.names("packs").size() == 2);
    CHECK(faults_in(store, {s.id}) == "");
    CHECK(plan_of(store).empty());
}

TEST_CASE("prune: of a chunk that was stored twice one copy stays, for both snapshots") {
    TestStore store = new_repository();
    auto chunk = noise(5000, 1);
    auto a = store_snapshot(store, 1, {{"a", {chunk}}});
    store_chunks(*open_repository(store), {chunk}, {}, true);
    auto b = store_snapshot(store, 2, {{"b", {chunk}}});
    REQUIRE(packs_with(store, chunk).size() == 2);
    CHECK(plan_of(store).condemn.packs == 1);
    prune(store);
    store.clock += kGrace;
    CHECK(prune(store).packs == 1);
    CHECK(packs_with(store, chunk).size() == 1);
    CHECK(faults_in(store, {a.id, b.id}) == "");
}

TEST_CASE("prune: where each of two condemned the other's copy of a chunk, it is copied before both go") {
    TestStore store = new_repository();
    auto chunk = noise(5000, 1);
    auto s = store_snapshot(store, 1, {{"a", {chunk}}});
    store_chunks(*open_repository(store), {chunk}, {}, true);
    for (auto& name : packs_with(store, chunk))
        write_segment(*open_repository(store), condemned_record(*parse_hash(name.substr(6))));
    auto both = packs_with(store, chunk);
    REQUIRE(both.size() == 2);
    store.clock += kGrace;
    CHECK(plan_of(store).copy == 5000);
    CHECK(prune(store).packs == 2);
    CHECK(packs_with(store, chunk).size() == 1);
    CHECK(faults_in(store, {s.id}) == "");
}

TEST_CASE(
    "prune: a snapshot that is taken back within the grace period keeps all it needs, and none is later") {
    TestStore store = new_repository();
    auto s = store_snapshot(store, 1, {{"a", {noise(5000, 1)}}, {"b", {noise(300'000, 2)}}});
    auto other = store_snapshot(store, 2, {{"c", {noise(5000, 3)}}});
    forget_all(store, {&s});
    prune(store);
    store.clock += kGrace;
    std::set<SnapshotId> wanted{other.id};
    SUBCASE("before they are deleted") {
        wanted.insert(unforget(*open_repository(store), s, 1));
        auto repo = open_repository(store);
        CHECK(repo->index.rely_on(repo->keys.hasher()(noise(5000, 1)))); // it was copied (I5)
        CHECK(prune(store).packs == 2);
    }
    SUBCASE("with all that was condemned deleted, but not yet recorded so") {
        for (auto& name : packs_with(store, noise(5000, 1))) store.remove(name);
        CHECK_THROWS_AS(unforget(*open_repository(store), s, 1), Error);
    }
    SUBCASE("after that") {
        CHECK(prune(store).packs == 2);
        auto before = store.objects;
        CHECK(complaint([&] { unforget(*open_repository(store), s, 1); }).find("deleted already") !=
              std::string::npos);
        CHECK(store.objects == before);
    }
    CHECK(faults_in(store, wanted) == "");
    store.clock += kGrace;
    prune(store);
    CHECK(faults_in(store, wanted) == "");
}

TEST_CASE("prune: refuses where it cannot know what is needed, and changes nothing") {
    Captured said;
    TestStore store = new_repository();
    std::vector<Bytes> many; // so that this segment is too large to be merged into the next
    for (uint64_t i = 0; i < 1500; ++i) many.push_back(noise(8, i));
    auto gone = store_snapshot(store, 1, {{"a", many}});
    auto large = store.names("index").back();
    auto stays = store_snapshot(store, 2, {{"b", {noise(5000, 2)}}});
    forget_all(store, {&gone});
    REQUIRE(store.names("index").size() > 2);
    REQUIRE_FALSE(plan_of(store).empty());
    std::string wanted;
    SUBCASE("a segment that others name is not there") {
        store.objects.erase(large);
        wanted = "index";
    }
    SUBCASE("a segment that others name is not whole") {
        store.objects.at(large)[100] ^= 1;
        wanted = "index";
    }
    SUBCASE("one that nobody names is not whole") {
        auto newest = store.objects.at(store.names("index").back());
        store.put("index/00000009-" + hex(hash_of(1)), newest);
        wanted = "index";
    }
    SUBCASE("a pack with a tree is not there") {
        auto repo = open_repository(store);
        for (auto& p : repo->index.packs())
            for (auto& id : stays.tree)
                for (auto& place : repo->index.places(id))
                    if (repo->index.pack(repo->index.frame(place.frame)).name == p.name)
                        store.objects.erase(object_name(Name::packs, p.name));
        wanted = short_id(stays.id);
    }
    SUBCASE("a pack with content is not there") {
        for (auto& name : packs_with(store, noise(5000, 2))) store.objects.erase(name);
        wanted = short_id(stays.id);
    }
    SUBCASE("a pack with content is shorter than it was") {
        for (auto& name : packs_with(store, noise(5000, 2))) store.objects.at(name).pop_back();
        wanted = short_id(stays.id);
    }
    for (int64_t grace : {kGrace, int64_t(0)}) {
        auto before = store.objects;
        CHECK_NAMES(complaint([&] { prune(store, thorough(grace)); }), wanted);
        CHECK(store.objects == before);
        store.clock += 2 * kGrace;
    }
}

TEST_CASE("prune: what was deleted is in the index no longer but for its name, and does not come back") {
    TestStore store = new_repository();
    std::vector<Bytes> many;
    for (uint64_t i = 0; i < 3000; ++i) many.push_back(noise(8, i));
    auto gone = store_snapshot(store, 1, {{"a", many}});
    auto stays = store_snapshot(store, 2, {{"b", {noise(5000, 2)}}});
    forget_all(store, {&gone});
    prune(store);
    auto with_tables = bytes_in(store, "index");
    auto before = store.objects;
    store.clock += kGrace;
    CHECK(prune(store).packs == 2);
    tidy_index(store);
    CHECK(with_tables > 3000 * 16);
    CHECK(bytes_in(store, "index") < 4000);
    {
        auto repo = open_repository(store);
        CHECK(repo->index.packs().size() == 2);
        CHECK_FALSE(repo->index.knows(repo->keys.hasher()(many[0])));
    }
    std::string names;
    SUBCASE("packs") { names = "packs/"; }
    SUBCASE("packs and segments") { names = ""; }
    for (auto& [name, bytes] : before)
        if (name.starts_with(names) && !store.objects.contains(name)) store.put(name, bytes);
    auto repo = open_repository(store);
    CHECK(repo->damage.empty());
    CHECK(repo->snapshots().size() == 1);
    CHECK_FALSE(repo->index.rely_on(repo->keys.hasher()(many[0])));
    CHECK_FALSE(repo->index.need(repo->keys.hasher()(many[0])));
    // Nobody knows them any more, so they go the way of all that no segment names.
    store.clock += kSettled;
    write_segment(*open_repository(store), {}); // the server says what time it is
    prune(store);
    store.clock += kGrace;
    prune(store);
    CHECK(store.names("packs").size() == 2);
    CHECK(faults_in(store, {stays.id}) == "");
}

TEST_CASE("prune: nobody relies on what was condemned, wherever the index says so, nor on what was deleted") {
    TestStore store = new_repository();
    std::vector<Bytes> many; // so that this segment is too large to be merged into the next
    for (uint64_t i = 0; i < 1500; ++i) many.push_back(noise(8, i));
    auto gone = store_snapshot(store, 1, {{"a", many}});
    forget_all(store, {&gone});
    auto relies = [&] {
        auto repo = open_repository(store);
        return repo->index.rely_on(repo->keys.hasher()(many[0]));
    };
    CHECK(relies());
    auto before = store.objects;
    prune(store);
    CHECK(store.names("index").size() > 3);
    CHECK_FALSE(relies());
    store.clock += kGrace;
    auto looked = open_repository(store);
    CHECK(prune(store).packs == 2);
    // One who had just looked carries the pack's table on, and the server brings the pack back.
    looked->commit([] { return Bytes(); }, true);
    for (auto& [name, bytes] : before)
        if (name.starts_with("packs/")) store.put(name, bytes);
    auto repo = open_repository(store);
    CHECK(repo->index.knows(repo->keys.hasher()(many[0])));
    CHECK_FALSE(relies());
    CHECK(repo->index.places(repo->keys.hasher()(many[0])).empty());
}

TEST_CASE(
    "prune: a deleted pack that a server brings back goes again, also where there is a backup each day") {
    TestStore store = new_repository();
    auto gone = store_snapshot(store, 1, {{"a", {noise(5000, 1)}}});
    forget_all(store, {&gone});
    auto before = store.objects;
    prune(store, thorough(0));
    REQUIRE(store.names("packs").empty());
    for (auto& [name, bytes] : before)
        if (!store.objects.contains(name)) store.put(name, bytes);
    for (int day = 0; day < 10; ++day) {
        store.clock += kGrace / 3;
        write_segment(*open_repository(store), {});
        prune(store);
    }
    CHECK(store.names("packs").empty());
}

TEST_CASE("prune: a forgotten snapshot whose packs a server hid for a while can be taken back (I10)") {
    TestStore store = new_repository();
    auto begun_before = open_repository(store);
    auto s = store_snapshot(store, 1, {{"a", {noise(5000, 1)}}});
    forget_all(store, {&s});
    SUBCASE("and a run that writes meanwhile") {
        for (auto& name : store.names("packs")) store.hidden.insert(name);
        write_segment(*open_repository(store), {}); // merges
        store.hidden.clear();
    }
    SUBCASE("nothing was hidden, but a run that writes began before") {
        begun_before->listing_lasts = {};
        write_segment(*begun_before, {});
    }
    tidy_index(store);
    CHECK(open_repository(store)->snapshots(true).size() == 1);
}

TEST_CASE("prune: a server whose clock was ahead for a while shortens no grace period") {
    TestStore store = new_repository();
    auto gone = store_snapshot(store, 1, {{"a", {noise(5000, 1)}}});
    store_snapshot(store, 2, {{"b", {noise(5000, 2)}}});
    const auto now = store.clock;
    store.clock = now + 100 * kGrace;
    write_segment(*open_repository(store), {});
    store.clock = now;
    forget_all(store, {&gone});
    prune(store);
    store.clock += 60;
    CHECK(prune(store).packs == 0);
}

TEST_CASE("prune: what was deleted but not recorded so is still something to do") {
    TestStore store = new_repository();
    auto gone = store_snapshot(store, 1, {{"a", {noise(5000, 1)}}});
    forget_all(store, {&gone});
    prune(store);
    store.clock += kGrace;
    for (auto& name : store.names("packs")) store.remove(name); // it was killed then
    CHECK_FALSE(plan_of(store).empty());
}

TEST_CASE("prune: on a server that deletes nothing it says so, and nothing is lost") {
    TestStore store = new_repository();
    auto gone = store_snapshot(store, 1, {{"a", {noise(5000, 1)}}});
    auto stays = store_snapshot(store, 2, {{"b", {noise(5000, 2)}}});
    forget_all(store, {&gone});
    store.append_only = true;
    CHECK(prune(store).packs == 0); // condemning is allowed everywhere
    store.clock += kGrace;
    auto packs = store.names("packs");
    CHECK_NAMES(complaint([&] { prune(store); }), "append-only");
    CHECK(store.names("packs") == packs);
    auto again = store_snapshot(store, 3, {{"a", {noise(5000, 1)}}});
    CHECK(store.names("packs").size() == packs.size() + 2); // nobody relies on what is condemned
    store.append_only = false;
    CHECK(prune(store).packs == 2);
    CHECK(faults_in(store, {stays.id, again.id}) == "");
}

TEST_CASE(
    "prune: of files that continue in another part of the tree nothing is lost, whichever parts are shared") {
    TestStore store = new_repository();
    auto repo = open_repository(store);
    Chunker chunker(repo->keys.gear());
    // A part of the tree ends behind each record of the large file, which are decided by its name.
    std::string large;
    for (int i = 0; large.empty(); ++i)
        if (chunker.cut_tree_after("a", text("b", i))) large = text("b", i);
    constexpr size_t n = kIdsPerRecord;
    std::vector<Bytes> base;
    for (uint64_t i = 0; i < 2 * n + 50; ++i) base.push_back(noise(8, i));
    auto with = [&](std::initializer_list<size_t> changed, uint64_t seed) {
        auto chunks = base;
        for (size_t at : changed) chunks[at] = noise(8, 1'000'000 + 10'000 * seed + at);
        return chunks;
    };
    std::vector<Snapshot> all;
    std::map<SnapshotId, size_t> ids;
    std::set<SnapshotId> wanted;
    auto take = [&](const char* small, const std::vector<Bytes>& chunks) {
        auto seed = all.size() + 1;
        all.push_back(store_snapshot(
            store, seed, {{"a", {noise(100, uint64_t(*small))}}, {large, chunks}, {"c", {noise(100, 5)}}}));
        wanted.insert(all.back().id);
    };
    take("1", base);
    take("2", base);                    // the first part is another, the rest is shared
    take("1", with({5}, 1));            // the same, by another chunk of the file itself
    take("1", with({n + 5}, 2));        // the middle
    take("1", with({2 * n + 5}, 3));    // the last, and what is before is shared
    take("2", with({5, 2 * n + 5}, 4)); // only the middle is shared
    prune(store);
    store.clock += kGrace;
    prune(store);
    CHECK(faults_in(store, wanted) == "");
}

TEST_CASE("prune: the id of a snapshot is known a hundred merges later, also of one that was forgotten and "
          "pruned") {
    TestStore store = new_repository();
    auto gone = store_snapshot(store, 1, {{"a", {noise(5000, 1)}}});
    auto stays = store_snapshot(store, 2, {{"b", {noise(5000, 2)}}});
    forget_all(store, {&gone});
    for (uint64_t i = 0; i < 100; ++i) {
        store_snapshot(store, 3 + i, {{"c", {noise(100, i)}}});
        store.clock += kGrace / 3;
        if (i % 10 == 0) prune(store);
        tidy_index(store);
    }
    auto repo = open_repository(store);
    CHECK_FALSE(repo->index.snapshots.contains(gone.id));
    CHECK(repo->index.forgotten.contains(gone.id));
    CHECK(repo->index.snapshots.contains(stays.id));
    CHECK(repo->damage.empty());
    CHECK(store.names("index").size() < 12);
}

// ---- repair ------------------------------------------------------------------------------------

TEST_CASE("repair: a pack that cannot be read just now is neither saved nor given up") {
    TestStore store = new_repository();
    auto s = store_snapshot(store, 1, {{"a", {noise(5000, 1)}}});
    auto before = store.names("packs");
    store.on_read = [](const std::string& name) {
        if (name.starts_with("packs/")) throw Error("cannot read: input/output error");
    };
    Captured said;
    {
        auto repo = open_repository(store);
        auto result = Repair(*repo, 2).run();
        CHECK(result.unreadable == before.size());
        CHECK(result.damaged == 0);
    }
    store.on_read = nullptr;
    CHECK(store.names("packs") == before);
    CHECK(faults_in(store, {s.id}) == "");
    CHECK(open_repository(store)->index.deleted.empty());
}

TEST_CASE("repair: what another client may still be sending is not given up where the index is damaged") {
    TestStore store = new_repository();
    store_snapshot(store, 1, {{"a", {noise(5000, 1)}}});
    auto half = noise(1000, 7);
    auto name = object_name(Name::packs, sha256(half));
    half.resize(500);
    store.put(name, half);
    Captured said;
    auto repo = open_repository(store);
    repo->damage.insert("for the test");
    CHECK(Repair(*repo, 2).run().unreadable == 1);
    CHECK(open_repository(store)->index.deleted.empty());
    CHECK(store.objects.contains(name));
}

TEST_CASE("repair: behind a chunk that is not what its id says, the others of its frame are still had") {
    TestStore store = new_repository();
    auto repo = open_repository(store);
    Bytes raw;
    FrameInfo info;
    auto hasher = repo->keys.hasher();
    for (uint64_t i = 0; i < 5; ++i) {
        auto chunk = noise(100, i);
        info.chunks.push_back({hasher(chunk), uint32_t(chunk.size())});
        raw.insert(raw.end(), chunk.begin(), chunk.end());
    }
    info.chunks[1].id[0] ^= 1;
    auto plain = compress(raw);
    Sealer sealer(repo->keys, kPackLabel);
    sealer.add(info, plain.head, plain.body);
    auto object = sealer.finish();
    size_t had = 0;
    CHECK(open_frames(*repo, object.table, object.salt, Keys::back(object.sealed),
                      [&](auto&, auto&, View) { ++had; }) == 1);
    CHECK(had == 4);
}
