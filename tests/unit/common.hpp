// What the unit tests share: bytes, checks that are made for every byte, and a store in memory
// that can be tampered with and fails on demand.
#pragma once

#ifdef NFREEZE_COVERAGE
extern "C" void __gcov_dump(); // of the compiler's library: what was run is written now, not at the end
#endif

namespace {

bool same(View a, View b) { return std::ranges::equal(a, b); }

/// The plaintext of the frame that holds `raw`.
Bytes frame_of(View raw) {
    Bytes bytes(raw.begin(), raw.end());
    auto [head, body] = compress(bytes);
    head.insert(head.end(), body.begin(), body.end());
    return head;
}

// ---- bytes ------------------------------------------------------------------------------------

Bytes from_hex(std::string_view digits) {
    Bytes out;
    auto value = [](char c) { return c <= '9' ? c - '0' : c - 'a' + 10; };
    for (size_t i = 0; i + 1 < digits.size(); i += 2)
        out.push_back(uint8_t(value(digits[i]) << 4 | value(digits[i + 1])));
    return out;
}
Bytes bytes_of(std::string_view s) { return {s.begin(), s.end()}; }
std::string string_of(View v) { return {v.begin(), v.end()}; }

/// The same bytes for the same seed, on every machine.
Bytes noise(size_t size, uint64_t seed) { return bytes_of(support::random_bytes(size, seed)); }

template <size_t N> std::array<uint8_t, N> noise_array(uint64_t seed) {
    std::array<uint8_t, N> a;
    std::ranges::copy(noise(N, seed), a.begin());
    return a;
}
ChunkId chunk_id(uint64_t seed) { return noise_array<16>(seed); }
Hash hash_of(uint64_t seed) { return noise_array<32>(seed); }

Secret secret_of(View v) { return Secret(string_of(v)); }

// ---- checks for every byte --------------------------------------------------------------------

/// `decode` accepts `whole` and refuses, with Corrupt, every shorter beginning of it.
template <class F> void check_every_truncation(const Bytes& whole, F decode) {
    CHECK_NOTHROW(decode(View(whole)));
    for (size_t n = 0; n < whole.size(); ++n) {
        INFO("cut to ", n, " of ", whole.size(), " bytes");
        // A copy that ends where the input does, so that a sanitizer sees every byte read beyond
        // it.
        Bytes cut(whole.begin(), whole.begin() + long(n));
        cut.shrink_to_fit();
        CHECK_THROWS_AS(decode(View(cut)), Corrupt);
    }
}

/// `decode` of mutilated input returns or throws Error, and does nothing else. For input that was
/// authenticated before it is parsed: whatever comes out may be wrong, but must not be a crash.
template <class F> void check_mutilations(const Bytes& whole, int rounds, F decode) {
    support::Random random(whole.size());
    int refused = 0;
    for (int round = 0; round < rounds; ++round) {
        Bytes bad = whole;
        for (auto n = 1 + random.below(4); n > 0; --n) {
            size_t at = random.below(bad.size());
            switch (random.below(4)) {
            case 0:
                bad[at] = uint8_t(random.next());
                break;
            case 1:
                bad[at] ^= uint8_t(1u << random.below(8));
                break;
            case 2:
                bad[at] = 0xff;
                break;
            default:
                bad.erase(bad.begin() + long(at),
                          bad.begin() + long(std::min(bad.size(), at + 1 + random.below(8))));
            }
            if (bad.empty()) bad.push_back(0);
        }
        bad.shrink_to_fit();
        try {
            decode(View(bad));
        } catch (const Error&) {
            ++refused;
        }
    }
    INFO(refused, " of ", rounds, " refused");
    CHECK(refused > rounds / 10);
}

// ---- what the program says --------------------------------------------------------------------

/// Keeps what is said on standard error (or out) while it lives, and out of the test's output.
class Captured {
  public:
    explicit Captured(std::ostream& stream = std::cerr)
        : stream_(stream), before_(stream.rdbuf(buffer_.rdbuf())) {}
    ~Captured() { stream_.rdbuf(before_); }
    Captured(const Captured&) = delete;
    Captured& operator=(const Captured&) = delete;
    std::string text() const { return buffer_.str(); }

  private:
    std::ostringstream buffer_;
    std::ostream& stream_;
    std::streambuf* before_;
};

/// What an Error says, or "" where `f` throws none.
template <class F> std::string complaint(F f) {
    try {
        f();
    } catch (const Error& e) {
        return e.what();
    }
    return "";
}

// ---- what must not hang or crash --------------------------------------------------------------

/// Ends a child process without the end of a program; what it has run is counted all the same.
[[noreturn]] void leave_child() {
#ifdef NFREEZE_COVERAGE
    __gcov_dump();
#endif
    _exit(0);
}
#ifdef NFREEZE_COVERAGE
constexpr unsigned kSlowness = 4; // nothing is optimised
#else
constexpr unsigned kSlowness = 1;
#endif

/// How a child process that runs `f` ends: "" if it returns, else the exception or the signal. For
/// what can deadlock or crash where it is broken. To be called while this process has one thread.
template <class F> std::string in_child(unsigned seconds, F f) {
    int ends[2];
    if (pipe(ends) != 0) return "no pipe";
    Fd from(ends[0]), to(ends[1]);
    std::cout.flush(); // else the child may say it again, wherever its output goes
    std::fflush(nullptr);
    pid_t child = fork();
    if (child < 0) return "no child";
    if (child == 0) {
        signal(SIGALRM, SIG_DFL);
        alarm(seconds * kSlowness);
        std::string what;
        try {
            f();
        } catch (const std::exception& e) {
            what = text("exception: ", e.what());
        }
        if (!what.empty()) (void)!::write(to.get(), what.data(), what.size());
        leave_child();
    }
    (void)to.close();
    std::string said(4096, '\0');
    said.resize(read_full(from.get(), {reinterpret_cast<uint8_t*>(said.data()), said.size()}, "the child"));
    int status = 0;
    waitpid(child, &status, 0);
    if (WIFSIGNALED(status))
        return WTERMSIG(status) == SIGALRM ? text("still at it after ", seconds, " s")
                                           : text("signal ", WTERMSIG(status));
    return WIFEXITED(status) && WEXITSTATUS(status) != 0 ? text("exit code ", WEXITSTATUS(status)) : said;
}

// ---- a store in memory ------------------------------------------------------------------------

/// A store for tests that call objects by their paths, and make any bytes of them.
class PlainStore : public Store {
  public:
    virtual std::vector<Listed> list(const std::string& dir) = 0; // "": the repository
    virtual Bytes read(const std::string& path, uint64_t offset, size_t length) = 0;
    virtual void create(const std::string& path, View bytes) = 0;
    virtual void remove(const std::string& path) = 0;
    virtual void truncate(const std::string&) { throw Error("not here"); }
    virtual void rename(const std::string&, const std::string&) { throw Error("not here"); }
    virtual void make_directory(const std::string&) { throw Error("not here"); }

    using Store::list;
    std::vector<Listed> list_all(Where where) final {
        return list(where ? std::string(Name::path(*where)) : std::string());
    }
    Foreign read(const Name& name, uint64_t offset, size_t length) final {
        return Foreign(read(name.path(), offset, length));
    }
    void create(const Sealed& object) final { create(object.name().path(), object.bytes()); }
    void remove(const Name& name) final { remove(name.path()); }
    void truncate(const Name& name) final { truncate(name.path()); }
    void rename(const Name& from, const Name& to) final { rename(from.path(), to.path()); }
    void make_directory(Where where) final {
        make_directory(where ? std::string(Name::path(*where)) : std::string());
    }
};

std::string object_name(Name::Directory directory, const Hash& hash) { return Name{directory, hash}.path(); }

/// What was sealed, to be changed at will.
struct PlainObject {
    explicit PlainObject(const SealedObject& o)
        : name(o.sealed.name().hash), salt(o.salt), bytes(o.sealed.bytes().begin(), o.sealed.bytes().end()),
          table(o.table) {}
    Hash name;
    Salt salt;
    Bytes bytes;
    Table table;
};
Foreign foreign(View bytes) { return Foreign(Bytes(bytes.begin(), bytes.end())); }
Bytes encode_key_object(const Secret& master, const Secret& passphrase, ScryptCost cost, int64_t time,
                        const std::string& label) {
    auto sealed = Keys::seal_master(master, passphrase, cost, time, label);
    return Bytes(sealed.bytes().begin(), sealed.bytes().end());
}
std::optional<Secret> open_key_object(View object, const Secret& passphrase) {
    return Keys::open_master(foreign(object), passphrase);
}
// What these classes keep to themselves: an explicit instantiation may name it.
const Secret& id_key(const Keys& keys);
const Secret& pack_key(const Keys& keys);
const Secret& index_key(const Keys& keys);
const Bytes& inside(const Foreign& f);
template <auto Id, auto Pack, auto Index, auto Inside> struct Shown {
    friend const Secret& id_key(const Keys& keys) { return keys.*Id; }
    friend const Secret& pack_key(const Keys& keys) { return keys.*Pack; }
    friend const Secret& index_key(const Keys& keys) { return keys.*Index; }
    friend const Bytes& inside(const Foreign& f) { return f.*Inside; }
};
template struct Shown<&Keys::id_, &Keys::pack_, &Keys::index_, &Foreign::bytes_>;
/// An object of about so many bytes, which no other is like.
Sealed some_object(size_t size) {
    static const Keys keys(Secret(32));
    Sealer sealer(keys, kPackLabel);
    sealer.add({}, noise(size, size));
    return sealer.finish().sealed;
}

class TestStore : public PlainStore {
  public:
    /// What becomes of a create().
    enum class Fault {
        none,
        refused, // the server says no
        absent,  // Uncertain, and nothing was written
        torn,    // Uncertain, and half of it was written
        whole    // Uncertain, and all of it was written
    };
    std::map<std::string, Bytes> objects;
    std::map<std::string, int64_t> stamps; // seconds, when they were created
    int64_t clock = 1'000'000'000;         // what it is now
    std::set<std::string> directories;
    bool append_only = false;                                              // remove() is refused
    std::set<std::string> hidden;                                          // not listed, not found
    std::function<Fault(const std::string&)> on_create;                    // none if not set
    std::function<void(const std::string&)> on_read;                       // before the object is looked for
    std::function<void(const std::string&, std::vector<Listed>&)> on_list; // may change the listing
    std::atomic<int> reads{0}, creates{0}, removes{0};

    TestStore() = default;
    /// A copy of the objects alone.
    TestStore(const TestStore& other)
        : PlainStore(), objects(other.objects), stamps(other.stamps), clock(other.clock),
          directories(other.directories) {}
    TestStore& operator=(const TestStore&) = delete;

    std::vector<Listed> list(const std::string& dir) override {
        std::vector<Listed> found;
        {
            std::lock_guard lock(mutex_);
            if (!directories.contains(dir)) throw NotThere("no directory " + dir);
            if (dir.empty())
                for (auto& d : directories)
                    if (!d.empty()) found.push_back({d, 0, 0});
            for (auto& [name, bytes] : objects)
                if (name.starts_with(dir + "/") && !hidden.contains(name))
                    found.push_back({name.substr(dir.size() + 1), bytes.size(), stamps[name]});
        }
        if (on_list) on_list(dir, found);
        return found;
    }
    Bytes read(const std::string& name, uint64_t offset, size_t length) override {
        ++reads;
        if (on_read) on_read(name);
        std::lock_guard lock(mutex_);
        auto at = objects.find(name);
        if (at == objects.end() || hidden.contains(name)) throw NotThere("no object " + name);
        if (offset + length > at->second.size()) throw Corrupt(name + " is shorter than it was");
        auto begin = at->second.begin() + long(offset);
        return {begin, begin + long(length)};
    }
    void create(const std::string& name, View data) override {
        ++creates;
        auto fault = on_create ? on_create(name) : Fault::none;
        if (fault == Fault::refused) throw Error("no space for " + name);
        {
            std::lock_guard lock(mutex_);
            if (!directories.contains(name.substr(0, name.rfind('/'))))
                throw NotThere("no directory for " + name);
            if (objects.contains(name)) throw Error(name + " exists");
            size_t part = fault == Fault::absent ? 0 : fault == Fault::torn ? data.size() / 2 : data.size();
            if (part > 0) objects[name] = Bytes(data.begin(), data.begin() + long(part));
            stamps[name] = clock;
        }
        if (fault != Fault::none) throw Uncertain("the line broke while " + name + " was written");
    }
    void remove(const std::string& name) override {
        if (append_only) throw Error("removing " + name + " is forbidden");
        ++removes;
        std::lock_guard lock(mutex_);
        if (objects.erase(name) == 0) throw NotThere("no object " + name);
    }
    void truncate(const std::string& name) override {
        if (append_only) throw Error("truncating " + name + " is forbidden");
        std::lock_guard lock(mutex_);
        objects.at(name).clear();
    }
    void rename(const std::string& from, const std::string& to) override {
        if (append_only) throw Error("renaming " + from + " is forbidden");
        std::lock_guard lock(mutex_);
        objects[to] = std::exchange(objects.at(from), {});
        objects.erase(from);
    }
    void make_directory(const std::string& dir) override {
        std::lock_guard lock(mutex_);
        directories.insert(dir);
    }

    /// An object as it is while somebody writes it, say.
    void put(const std::string& name, View bytes) {
        std::lock_guard lock(mutex_);
        objects[name] = Bytes(bytes.begin(), bytes.end());
        stamps[name] = clock;
    }
    std::vector<std::string> names(std::string_view dir) const {
        std::vector<std::string> found;
        for (auto& [name, bytes] : objects)
            if (name.starts_with(std::string(dir) + "/")) found.push_back(name);
        return found;
    }

  private:
    std::mutex mutex_;
};

// ---- repositories -----------------------------------------------------------------------------

Secret passphrase() { return Secret(std::string_view("correct horse battery staple")); }
/// The cheapest derivation that is accepted.
ScryptCost cheap() {
    ScryptCost cost;
    cost.log_n = kScryptLogNMin;
    return cost;
}
/// A copy of an empty repository, which is made once.
TestStore new_repository() {
    static const auto made = [] {
        auto store = std::make_unique<TestStore>();
        Repository::init(*store, passphrase(), cheap(), 1, "test");
        return store;
    }();
    return *made;
}

// Opening a repository costs a derivation of a tenth of a second, on purpose. Tests whose subject
// is not the opening use repositories that were opened once: emptied, pointed at another store with
// the same key, and loaded again. For that they need what Repository keeps to itself; an explicit
// instantiation may name it.
auto& segments_of(Repository& repo);
auto& highest_seq_of(Repository& repo);
auto& written_of(Repository& repo);
auto& uncertain_of(Repository& repo);
void load(Repository& repo);
template <auto Segments, auto HighestSeq, auto Written, auto Uncertain, auto Load> struct OpenedRepository {
    friend auto& segments_of(Repository& repo) { return repo.*Segments; }
    friend auto& highest_seq_of(Repository& repo) { return repo.*HighestSeq; }
    friend auto& written_of(Repository& repo) { return repo.*Written; }
    friend auto& uncertain_of(Repository& repo) { return repo.*Uncertain; }
    friend void load(Repository& repo) { (repo.*Load)(); }
};
template struct OpenedRepository<&Repository::segments_, &Repository::highest_seq_, &Repository::written_,
                                 &Repository::uncertain_,
                                 static_cast<void (Repository::*)()>(&Repository::load)>;

/// Passes everything on to another store.
struct Forward : Store {
    Store* to = nullptr;
    std::vector<Listed> list_all(Where where) override { return to->list_all(where); }
    Foreign read(const Name& name, uint64_t offset, size_t length) override {
        return to->read(name, offset, length);
    }
    void create(const Sealed& object) override { to->create(object); }
    void remove(const Name& name) override { to->remove(name); }
    void truncate(const Name& name) override { to->truncate(name); }
    void rename(const Name& from, const Name& to_name) override { to->rename(from, to_name); }
    void make_directory(Where where) override { to->make_directory(where); }
};

struct Reusable {
    Forward store;
    std::unique_ptr<Repository> repo;
};
/// Those that no test uses just now.
std::vector<std::unique_ptr<Reusable>>& spare_repositories() {
    static std::vector<std::unique_ptr<Reusable>> all;
    return all;
}
/// One of them, to be pointed at a store with load_from(). For one thread at a time.
std::unique_ptr<Reusable> take_repository() {
    auto& spare = spare_repositories();
    std::unique_ptr<Reusable> mine;
    if (spare.empty()) {
        static TestStore base = new_repository();
        mine = std::make_unique<Reusable>();
        mine->store.to = &base;
        mine->repo = Repository::open(mine->store, passphrase);
    } else {
        mine = std::move(spare.back());
        spare.pop_back();
    }
    return mine;
}
/// What opening does once the key is known. In any thread.
void load_from(Reusable& mine, Store& store) {
    auto& repo = *mine.repo;
    mine.store.to = &store;
    repo.index = Index();
    repo.damage.clear();
    repo.doubts.clear();
    repo.store.work.stored = 0;
    repo.listing_lasts = kListingFresh;
    segments_of(repo).clear();
    highest_seq_of(repo) = 0;
    written_of(repo) = {};
    uncertain_of(repo).clear();
    load(repo);
}

/// An open repository, as from Repository::open(); goes back to the spare ones.
class OpenRepository {
  public:
    explicit OpenRepository(Store& store) : mine_(take_repository()) {
        try {
            load_from(*mine_, store);
        } catch (...) {
            spare_repositories().push_back(std::move(mine_));
            throw;
        }
    }
    ~OpenRepository() {
        if (mine_) spare_repositories().push_back(std::move(mine_));
    }
    OpenRepository(OpenRepository&&) = default;
    OpenRepository& operator=(OpenRepository&&) = delete;
    Repository& operator*() const { return *mine_->repo; }
    Repository* operator->() const { return mine_->repo.get(); }
    Repository* get() const { return mine_->repo.get(); }

  private:
    std::unique_ptr<Reusable> mine_;
};
OpenRepository open_repository(Store& store) { return OpenRepository(store); }

void write_segment(Repository& repo, View records) {
    repo.commit([&] { return Bytes(records.begin(), records.end()); });
}
/// Stores what was sealed as a pack. Returns what the index would say of it.
PackInfo put_pack(Repository& repo, Sealer& sealer) {
    auto object = sealer.finish();
    repo.store.create(object.sealed);
    return {.name = object.sealed.name().hash,
            .salt = object.salt,
            .size = object.sealed.bytes().size(),
            .table = object.table};
}
/// What is superseded by now goes, as the first run does when some time has passed.
void tidy_index(TestStore& store) {
    auto repo = open_repository(store);
    segments_of(*repo)[Name{}].mtime = store.clock + kSettled;
    repo->remove_superseded();
}

Snapshot sample_snapshot(uint64_t seed) {
    Snapshot s;
    s.id = noise_array<16>(seed);
    s.time = int64_t(seed) * 1'000'000'000;
    s.host = "host";
    s.user = "somebody";
    s.source = "/source";
    s.version = "1";
    return s;
}
Bytes record(Record type, View body) {
    Writer out;
    put_record(out, type, body);
    return out.take();
}
Bytes superseded_record(const ShortName& name, int64_t since = 0) {
    Writer w;
    put_since(w, Record::segment_superseded, name, since);
    return w.take();
}
Bytes condemned_record(const Hash& name, int64_t since = 0) {
    Writer w;
    put_since(w, Record::pack_condemned, name, since);
    return w.take();
}
Bytes snapshot_added(const Snapshot& s) { return record(Record::snapshot_added, encode_snapshot(s)); }

/// The ids of a repository's snapshots, as seeds of sample_snapshot() from 1 to `most`.
std::set<uint64_t> snapshot_seeds(const Repository& repo, uint64_t most) {
    std::set<uint64_t> found;
    for (auto* s : repo.snapshots())
        for (uint64_t seed = 1; seed <= most; ++seed)
            if (s->id == noise_array<16>(seed)) found.insert(seed);
    return found;
}
std::set<uint64_t> seeds_up_to(uint64_t most) {
    std::set<uint64_t> all;
    for (uint64_t seed = 1; seed <= most; ++seed) all.insert(seed);
    return all;
}

/// Cuts random bytes into chunks of odd sizes.
std::vector<Bytes> sample_chunks(size_t number, size_t largest, uint64_t seed) {
    std::vector<Bytes> chunks;
    support::Random random(seed);
    for (size_t i = 0; i < number; ++i) chunks.push_back(noise(1 + random.below(largest), random.next()));
    return chunks;
}

/// Stores chunks in a run of its own, which ends with a segment that holds `additions`.
std::vector<ChunkId> store_chunks(Repository& repo, const std::vector<Bytes>& chunks, View additions = {},
                                  bool force = false) {
    Packer packer(repo, 2, kCheckpoint);
    std::vector<ChunkId> ids;
    for (auto& c : chunks) ids.push_back(packer.put(Kind::data, c, force));
    packer.flush();
    packer.checkpoint(additions);
    return ids;
}

/// One chunk, read the way a restore reads it; throws Corrupt.
Bytes read_chunk(Repository& repo, const ChunkId& id) {
    TaskPool wire(2, 4);
    ChunkReader reader(repo, wire, kReadAhead);
    auto hasher = repo.keys.hasher();
    auto chunk = reader.read(id, hasher);
    return Bytes(chunk.bytes.begin(), chunk.bytes.end());
}

/// How many of the chunks are not read back as they were stored; what throws is counted too.
size_t unreadable_chunks(Repository& repo, const std::vector<ChunkId>& ids,
                         const std::vector<Bytes>& chunks) {
    TaskPool wire(2, 4);
    ChunkReader reader(repo, wire, kReadAhead);
    auto hasher = repo.keys.hasher();
    size_t bad = 0;
    for (size_t i = 0; i < ids.size(); ++i) {
        try {
            if (!same(reader.read(ids[i], hasher), chunks[i])) ++bad;
        } catch (const Corrupt&) {
            ++bad;
        }
    }
    return bad;
}

} // namespace
