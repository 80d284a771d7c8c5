// Fuzz targets for every parser of bytes from outside, in one libFuzzer binary. What is sealed is fuzzed
// inside its seal: the parsers are called directly, or what they are given is sealed first, because a
// fuzzer cannot forge a tag. Beside crashes, each target looks for answers that contradict themselves.
//
//     FUZZ=tree build/fuzz/nfreeze_fuzz -max_total_time=60 CORPUS    (tests/fuzz/run.sh does all of them)
//     FUZZ=list build/fuzz/nfreeze_fuzz                              names of the targets
//     FUZZ=tree FUZZ_SEEDS=DIR build/fuzz/nfreeze_fuzz               writes seeds and ends
#include <openssl/evp.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

// A key object's parser without the time and memory that a passphrase costs, on purpose. What is asked
// for must stay within the documented bounds, whatever the object says.
static int cheap_scrypt(const char* pass, size_t pass_size, const unsigned char* salt, size_t salt_size,
                        uint64_t n, uint64_t r, uint64_t p, uint64_t, unsigned char* key, size_t key_size) {
    if (n < (1u << 15) || (n & (n - 1)) != 0 || r < 8 || p < 1 || p > 16 ||
        n * r > (uint64_t(1024) << 20) / 128)
        abort();
    for (size_t i = 0; i < key_size; ++i) {
        uint64_t h = (i + 1) * 0x9e3779b97f4a7c15 + n * 31 + r * 17 + p;
        for (size_t k = 0; k < pass_size; ++k) h = (h ^ uint8_t(pass[k])) * 0x100000001b3;
        for (size_t k = 0; k < salt_size; ++k) h = (h ^ salt[k]) * 0x100000001b3;
        key[i] = uint8_t(h >> 32);
    }
    return 1;
}
#define EVP_PBE_scrypt cheap_scrypt
#include "../../nfreeze.cpp"
#undef EVP_PBE_scrypt

#include <sys/mman.h>

#include <filesystem>
#include <fstream>

namespace {

/// What must hold; says which rule was broken and ends the process, which libFuzzer takes for a crash.
#define HOLDS(condition)                                                                                     \
    do {                                                                                                     \
        if (!(condition)) {                                                                                  \
            std::fprintf(stderr, "%s:%d: does not hold: %s\n", __FILE__, __LINE__, #condition);              \
            abort();                                                                                         \
        }                                                                                                    \
    } while (false)

std::string words(View v) { return {v.begin(), v.end()}; }
Bytes bytes_of(std::string_view s) { return {s.begin(), s.end()}; }
Foreign foreign(View bytes) { return Foreign(Bytes(bytes.begin(), bytes.end())); }

/// The first line and what is behind it.
std::pair<std::string, std::string> first_line(View data) {
    std::string all = words(data);
    size_t end = std::min(all.find('\n'), all.size());
    return {all.substr(0, end), all.substr(std::min(end + 1, all.size()))};
}

template <size_t N> std::array<uint8_t, N> filled(uint8_t with) {
    std::array<uint8_t, N> a;
    a.fill(with);
    return a;
}

/// What a parser may throw: anything else, and any other exception, is a bug.
template <class F> bool parses(F f) {
    try {
        f();
        return true;
    } catch (const Error& e) {
        HOLDS(*e.what() != 0);
        return false;
    }
}

// ---- key objects --------------------------------------------------------------------------------

Bytes key_seed() {
    ScryptCost cost;
    cost.log_n = kScryptLogNMin;
    auto sealed = Keys::seal_master(Secret(std::string_view("0123456789abcdef0123456789abcdef")),
                                    Secret(std::string_view("passphrase")), cost, 1, "user@host");
    return Bytes(sealed.bytes().begin(), sealed.bytes().end());
}
void fuzz_key(View data) {
    static const Bytes genuine =
        key_seed(); // sealed anew in each run: a seed of an earlier one does not open
    std::optional<Secret> master;
    parses([&] { master = Keys::open_master(foreign(data), Secret(std::string_view("passphrase"))); });
    if (master) HOLDS(data.size() == kKeySize && master->size() == 32);
    // One byte of a genuine object changed: it must not open.
    Bytes changed = genuine;
    for (size_t i = 0; i + 1 < std::min<size_t>(data.size(), 8); i += 2)
        changed[data[i] % changed.size()] ^= data[i + 1];
    master.reset();
    parses([&] { master = Keys::open_master(foreign(changed), Secret(std::string_view("passphrase"))); });
    HOLDS(bool(master) == (changed == genuine));
}

// ---- tables, sealed objects, frames -------------------------------------------------------------

Table table_seed() {
    Table t(2);
    t[0] = {Kind::data, 4000, {{filled<16>(1), 3000}, {filled<16>(2), 70'000}}};
    t[1] = {Kind::snapshot, 90, {}};
    return t;
}
Bytes encoded(const Table& t) {
    Writer w;
    encode_table(w, t);
    return w.take();
}
void fuzz_table(View data) {
    Table t;
    Reader in(data, "a table");
    if (!parses([&] { t = decode_table(in); })) return;
    Bytes once = encoded(t);
    Reader again(once, "a table");
    HOLDS(encoded(decode_table(again)) == once);
    HOLDS(again.empty());
}

/// The table and the footer are the fuzzer's, sealed by us. Byte 0: whether the footer tells the truth;
/// the next 8: what it says if not.
void fuzz_object(View data) {
    if (data.size() < 9) return;
    static const Secret root(std::string_view("0123456789abcdef0123456789abcdef"));
    Reader in(data, "input");
    bool honest = in.u8() & 1;
    uint64_t lie = in.u64();
    View plain = in.raw(in.left());
    Bytes object(kPackLabel.magic.begin(), kPackLabel.magic.end());
    auto salt = filled<32>(7);
    object.insert(object.end(), salt.begin(), salt.end());
    static const Keys keys(root);
    Aead aead(hkdf(hkdf(root.view(), {}, "nfreeze pack").view(), salt, "nfreeze object"),
              kPackLabel.associated());
    Table table;
    bool good = parses([&] {
        Reader t(plain, "a table");
        table = decode_table(t);
        for (uint8_t zero : t.raw(t.left()))
            if (zero != 0) t.fail("bytes behind its end");
    });
    size_t frames = 0; // as the table wants them, as long as they are few and small
    for (auto& f : table) {
        if (f.sealed < kTag || f.sealed > 4096 || frames == 64) break;
        aead.seal(frames, Bytes(f.sealed - kTag, uint8_t(frames)), object);
        ++frames;
    }
    uint64_t at = object.size();
    Writer footer;
    footer.u64(honest ? at : lie);
    aead.seal(kNonceTable, plain, object);
    aead.seal(kNonceFooter, footer.view(), object);
    OpenedObject opened;
    bool opens = parses([&] { opened = open_object(keys, kPackLabel, Foreign(object), "an object"); });
    HOLDS(opens == (good && frames == table.size() && (honest || lie == at)));
    if (!opens) return;
    HOLDS(encoded(opened.table) == encoded(table) && opened.frames.size() == frames);
    for (size_t i = 0; i < frames; ++i) HOLDS(opened.frames[i].size() + kTag == table[i].sealed);
    // Under the name of a segment, it is another thing.
    HOLDS(!parses([&] { open_object(keys, Label{kPackLabel.magic, 1}, Foreign(object), "an object"); }));
}

void fuzz_frame(View data) {
    constexpr size_t most = 1 << 20;
    Bytes raw;
    if (!parses([&] { raw = decompress(data, most); })) return;
    HOLDS(raw.size() <= most);
    Bytes copy = raw;
    auto [head, body] = compress(copy);
    head.insert(head.end(), body.begin(), body.end());
    HOLDS(decompress(head, most) == raw);
    if (!raw.empty()) HOLDS(!parses([&] { decompress(data, raw.size() - 1); }));
}

// ---- the index ----------------------------------------------------------------------------------

Snapshot snapshot_seed() {
    Snapshot s;
    s.id = filled<16>(3);
    s.time = 1'700'000'000'000'000'000;
    s.host = "host";
    s.user = "user";
    s.source = "/home";
    s.version = "1";
    s.tags = {"weekly", "a b"};
    s.counts.files = 300;
    s.users = {{0, "root"}, {1000, "user"}};
    s.groups = {{0, "root"}};
    s.tree = {filled<16>(1), filled<16>(4)};
    return s;
}
void fuzz_snapshot(View data) {
    Snapshot s;
    if (!parses([&] { s = decode_snapshot(data); })) return;
    Bytes once = encode_snapshot(s);
    HOLDS(encode_snapshot(decode_snapshot(once)) == once);
}

Bytes segment_seed() {
    PackInfo p;
    p.name = filled<32>(5);
    p.salt = filled<32>(6);
    p.size = 5000;
    p.table = table_seed();
    Writer w;
    put_record(w, Record::pack_added, encode_pack(p));
    put_record(w, Record::snapshot_added, encode_snapshot(snapshot_seed()));
    put_since(w, Record::pack_condemned, p.name, 77);
    put_record(w, Record::pack_deleted, filled<32>(8));
    put_record(w, Record::snapshot_forgotten, filled<16>(9));
    put_since(w, Record::segment_superseded, filled<16>(10));
    put_record(w, Record::segment_parent, filled<16>(11));
    put_record(w, Record::segment_torn, filled<16>(12));
    return w.take();
}
/// All that can be asked of an index whatever it was told.
std::string state_of(Index& index) {
    std::string out;
    for (auto& [id, s] : index.snapshots) out += hex(id) + hex(encode_snapshot(s));
    for (auto& id : index.forgotten) out += "f" + hex(id);
    for (auto& [name, since] : index.condemned) out += "c" + hex(name) + std::to_string(since);
    for (auto& [name, since] : index.superseded) out += "s" + hex(name) + std::to_string(since);
    for (auto& name : index.deleted) out += "d" + hex(name);
    for (auto& name : index.parents) out += "p" + hex(name);
    for (auto& name : index.torn) out += "t" + hex(name);
    for (auto& p : index.packs())
        out += "k" + hex(p.name) + std::to_string(p.size) + (p.condemned ? "c" : "") + (p.present ? "p" : "");
    return out;
}
void fuzz_segment(View data) {
    Index index;
    bool whole = parses([&] { index.apply(data, 1, 1000); });
    for (auto& p : index.packs()) {
        for (auto& f : index.table_of(p))
            for (auto& c : f.chunks) {
                for (auto& place : index.places(c.id)) HOLDS(index.pack(index.frame(place.frame)).present);
                HOLDS(index.knows(c.id));
            }
        HOLDS(index.find_pack(p.name) == &p);
        if (&p - index.packs().data() == 3) break; // looks at everything each time
    }
    index.uses();
    index.relied_but_condemned();
    if (!whole) return;
    // The union of the same twice is the same, and the order of two halves does not matter.
    auto state = state_of(index);
    index.apply(data, 1, 1000);
    HOLDS(state_of(index) == state);
}

// ---- trees --------------------------------------------------------------------------------------

std::vector<Entry> tree_seed() {
    std::vector<Entry> entries(5);
    entries[0].type = Type::directory;
    entries[0].mode = 0755;
    entries[1].path = "dir";
    entries[1].type = Type::directory;
    entries[1].mode = 0700;
    entries[1].mtime = {1'700'000'000, 5};
    entries[2].path = "dir/file";
    entries[2].mode = 0644;
    entries[2].size = 100'000;
    entries[2].inode = 70;
    entries[2].link_group = 3;
    entries[2].holes = {{10, 20}, {50'000, 1}};
    entries[2].chunks = {filled<16>(1), filled<16>(2)};
    entries[2].checksum = 9;
    entries[2].xattrs = {{"user.a", "b"}};
    entries[3].path = "dir/link";
    entries[3].type = Type::symlink;
    entries[3].target = "../../outside";
    entries[4].path = "null";
    entries[4].type = Type::character;
    entries[4].device = 259;
    return entries;
}
/// One after the other, each with as many records as it takes.
Bytes encoded(const std::vector<Entry>& entries, const std::string& first) {
    TreeCodec codec;
    codec.reset(first);
    Writer out;
    for (auto& e : entries) {
        codec.encode(out, e);
        size_t done = std::min(e.chunks.size(), kIdsPerRecord);
        while (codec.encode_more(out, e, done)) {
        }
    }
    return out.take();
}
/// Whole entries up to the first thing that is wrong.
std::vector<Entry> decoded(View data, const std::string& first) {
    std::vector<Entry> entries;
    parses([&] {
        TreeCodec codec;
        codec.reset(first);
        Entry e;
        for (Reader in(data, "a tree"); !in.empty();)
            if (codec.decode(in, e)) entries.push_back(e);
    });
    return entries;
}
void fuzz_tree(View data) {
    auto [first, rest] = first_line(data);
    if (!is_safe_path(first)) return; // the list of chunks is sealed as well, but any path may stand there
    auto entries = decoded(as_bytes(rest), first);
    for (auto& e : entries) {
        HOLDS(is_safe_path(e.path) && e.path.size() <= kPathMax);
        HOLDS(e.mode <= 07777 && e.mtime.ns < 1'000'000'000 && e.ctime.ns < 1'000'000'000);
        uint64_t at = 0;
        for (auto& h : e.holes) {
            HOLDS(h.offset >= at && h.length <= e.size && h.offset <= e.size - h.length);
            at = h.offset + h.length;
        }
        HOLDS(e.chunks.empty() || e.type == Type::file);
    }
    auto again = decoded(encoded(entries, first), first);
    HOLDS(again.size() == entries.size());
    for (size_t i = 0; i < entries.size(); ++i) {
        HOLDS(again[i].path == entries[i].path && again[i].inode == entries[i].inode &&
              again[i].ctime == entries[i].ctime);
        HOLDS(difference(again[i], entries[i]) == ' ' && again[i].holes == entries[i].holes);
        if (entries[i].chunks.size() > 1) HOLDS(again[i].checksum == entries[i].checksum);
    }
}

// ---- restores of trees that no backup makes -------------------------------------------------------

/// Objects in memory.
class MemoryStore : public Store {
  public:
    std::map<std::string, Bytes> objects;
    std::set<std::string> directories;
    MemoryStore() = default;
    MemoryStore(const MemoryStore& o) : Store(), objects(o.objects), directories(o.directories) {}
    MemoryStore& operator=(const MemoryStore&) = delete;
    std::vector<Listed> list_all(Where where) override {
        std::lock_guard lock(mutex_);
        const std::string dir = where ? Name::path(*where) : "";
        if (!directories.contains(dir)) throw NotThere("no directory " + dir);
        std::vector<Listed> found;
        for (auto& [name, bytes] : objects)
            if (name.starts_with(dir + "/"))
                found.push_back({name.substr(dir.size() + 1), bytes.size(), 1'000'000'000});
        return found;
    }
    Foreign read(const Name& which, uint64_t offset, size_t length) override {
        std::lock_guard lock(mutex_);
        const std::string name = which.path();
        auto at = objects.find(name);
        if (at == objects.end()) throw NotThere("no object " + name);
        if (offset > at->second.size() || length > at->second.size() - offset)
            throw Corrupt(name + " is too short");
        return Foreign({at->second.begin() + long(offset), at->second.begin() + long(offset + length)});
    }
    void create(const Sealed& object) override {
        std::lock_guard lock(mutex_);
        objects[object.name().path()] = Bytes(object.bytes().begin(), object.bytes().end());
    }
    void remove(const Name& name) override { objects.erase(name.path()); }
    void truncate(const Name& name) override { objects.at(name.path()).clear(); }
    void rename(const Name& from, const Name& to) override {
        objects[to.path()] = objects.at(from.path());
        objects.erase(from.path());
    }
    void make_directory(Where where) override { directories.insert(where ? Name::path(*where) : ""); }

  private:
    std::mutex mutex_;
};

namespace fs = std::filesystem;

void empty(const fs::path& dir) {
    std::error_code ignored;
    for (auto& e : fs::directory_iterator(dir)) fs::remove_all(e.path(), ignored);
}
/// All of a directory, as a text.
std::string picture(const fs::path& dir) {
    std::string out;
    for (auto& e : fs::recursive_directory_iterator(dir)) {
        struct stat st;
        HOLDS(lstat(e.path().c_str(), &st) == 0);
        out += text(e.path().string(), ' ', st.st_mode, ' ', st.st_uid, ' ', st.st_gid, ' ', st.st_size, ' ',
                    st.st_nlink, ' ', st.st_mtim.tv_sec, '.', st.st_mtim.tv_nsec, ' ', st.st_ctim.tv_sec, '.',
                    st.st_ctim.tv_nsec, '\n');
    }
    return out;
}
/// Restores an arbitrary tree, beside and with links to a place in which nothing may change (I7).
void fuzz_restore(View data) {
    static const fs::path top = [] {
        std::string name =
            fs::exists("/dev/shm") ? "/dev/shm/nfreeze-fuzz.XXXXXX" : "/var/tmp/nfreeze-fuzz.XXXXXX";
        HOLDS(mkdtemp(name.data()) != nullptr);
        static std::string remembered = name;
        std::atexit([] {
            std::error_code ignored;
            fs::remove_all(remembered, ignored);
        });
        fs::create_directories(name + "/outside/dir");
        fs::create_directories(name + "/dest");
        std::ofstream(name + "/outside/file") << "of somebody else";
        return fs::path(name);
    }();
    static const std::string before = picture(top / "outside");
    static const MemoryStore fresh = [] {
        MemoryStore store;
        ScryptCost cost;
        cost.log_n = kScryptLogNMin;
        Repository::init(store, Secret(std::string_view("p")), cost, 1, "fuzz");
        return store;
    }();
    if (data.empty()) return;
    auto [first, rest] = first_line(data.subspan(1));
    MemoryStore store(fresh);
    auto repo = Repository::open(store, [] { return Secret(std::string_view("p")); });
    Snapshot s = snapshot_seed();
    {
        Packer packer(*repo, 1, kCheckpoint);
        Bytes chunk = bytes_of(rest);
        // A file may name these: 64 bytes each.
        for (uint8_t i = 0; i < 4; ++i) packer.put(Kind::data, Bytes(64, i));
        Writer list;
        list.raw(packer.put(Kind::tree, chunk));
        list.string(first);
        s.tree = {packer.put(Kind::tree, list.take())};
        packer.flush(&s);
        Writer added;
        put_record(added, Record::snapshot_added, encode_snapshot(s));
        packer.checkpoint(added.view());
    }
    empty(top / "dest");
    std::error_code ignored;
    fs::create_directory_symlink("../outside", top / "dest/link", ignored);
    fs::create_directory_symlink("../outside/dir", top / "dest/dir", ignored);
    RestoreOptions o;
    o.connections = 1;
    o.overwrite = data[0] & 1;
    o.remove = data[0] & 2;
    RestoreResult result;
    std::ostringstream said; // names each thing that is damaged
    auto* to = std::cerr.rdbuf(said.rdbuf());
    parses([&] { Restore(*repo, s, o).run(top / "dest", result); });
    std::cerr.rdbuf(to);
    for (char c : said.str()) HOLDS(c == '\n' || (uint8_t(c) >= 0x20 && c != 0x7f));
    HOLDS(picture(top / "outside") == before);
    for (auto& e : fs::directory_iterator(top))
        HOLDS(e.path() == top / "outside" || e.path() == top / "dest");
}

// ---- the wire -------------------------------------------------------------------------------------

/// The first byte is what is asked of a wire, the others all that it says, and then it ends.
void fuzz_wire(View data) {
    static const bool nobody_to_ask = setsid() > 0 || true; // there is no terminal
    static const Keys keys(Secret(32));
    static const Sealed object = Sealer(keys, kPackLabel).finish().sealed;
    if (data.empty() || !nobody_to_ask) return;
    auto [ours, its] = socket_pair(SOCK_STREAM);
    const Bytes logged_in(5); // Part::done
    HOLDS(send_full(its.get(), logged_in, Wait::for_ever));
    HOLDS(send_full(its.get(), data.subspan(1), Wait::for_ever));
    shutdown(its.get(), SHUT_WR);
    std::thread drain([fd = its.get()] { // what it is asked and answered
        std::array<char, 4096> ignored;
        while (recv(fd, ignored.data(), ignored.size(), 0) > 0) {
        }
    });
    SshOptions o;
    o.accept_new = true; // into no file
    std::vector<Fd> channels;
    channels.push_back(std::move(ours));
    std::ostringstream said;
    auto* to = std::cerr.rdbuf(said.rdbuf());
    parses([&] {
        WireStore store(o, std::move(channels));
        const Name name{Name::packs, {}, 0};
        const Bytes none;
        switch (data[0] % 7) {
        case 0:
            HOLDS(store.list_all({}).size() <= kListMax);
            break;
        case 1:
            for (auto& found : store.list(Name::index)) HOLDS(found.name.directory == Name::index);
            break;
        case 2:
            HOLDS(store.read(name, 0, 64).size() == 64);
            break;
        case 3:
            store.create(object);
            break;
        case 4:
            store.remove(name);
            break;
        case 5:
            store.rename(name, name);
            break;
        default:
            store.make_directory(Name::keys);
        }
    });
    channels.clear(); // where the store was not made
    drain.join();
    std::cerr.rdbuf(to);
    for (char c : said.str()) HOLDS(c == '\n' || (uint8_t(c) >= 0x20 && c != 0x7f));
}
Bytes wire_seed(uint8_t verb, std::initializer_list<std::pair<Part, size_t>> parts) {
    Writer out;
    out.u8(verb);
    for (auto& [kind, size] : parts) {
        out.u8(uint8_t(kind));
        out.u32(uint32_t(size));
        out.raw(Bytes(size, 1));
    }
    return out.take();
}

// ---- text ---------------------------------------------------------------------------------------

/// The first line is the host that is asked for.
void fuzz_known_hosts(View data) {
    const auto all = first_line(data);
    const std::string &host = all.first, &content = all.second;
    std::istringstream lines(content);
    for (std::string line; std::getline(lines, line);) host_field_matches(line, host);
    if (content.size() % 16 != 0) return; // what follows makes room for the largest file, each time
    static const int file = memfd_create("known_hosts", MFD_CLOEXEC);
    HOLDS(file >= 0 && ftruncate(file, 0) == 0 &&
          pwrite(file, content.data(), content.size(), 0) == ssize_t(content.size()));
    std::vector<KnownKey> keys;
    parses([&] { keys = known_keys({text("/proc/self/fd/", file)}, host); });
    for (auto& k : keys)
        HOLDS(!k.type.empty() && k.blob.size() >= 4 + k.type.size() &&
              k.blob.substr(4, k.type.size()) == k.type);
}

/// The first line is the path that is asked about.
void fuzz_patterns(View data) {
    auto [path, lines] = first_line(data);
    Patterns patterns;
    std::istringstream in(lines);
    for (std::string line; std::getline(in, line);) patterns.add(line);
    bool directory = patterns.exclude(path, true), file = patterns.exclude(path, false);
    patterns.add("!*");
    HOLDS(!is_safe_path(path) || path.empty() ||
          (!patterns.exclude(path, true) && !patterns.exclude(path, false)));
    patterns.add("/**");
    HOLDS(!is_safe_path(path) || path.empty() || patterns.exclude(path, false));
    (void)directory, (void)file;
}

void fuzz_address(View data) {
    std::string given = words(data);
    Address a;
    if (!parses([&] { a = parse_address(given); })) return;
    if (!a.remote()) {
        HOLDS(a.path == given && a.user.empty() && a.port == 0);
        return;
    }
    HOLDS(!a.host.starts_with('-') && a.port >= 0 && a.port <= 65535 && a.host.find('/') == a.host.npos);
}

void fuzz_numbers(View data) {
    std::string s = words(data);
    if (s.find('\0') != s.npos) return; // no argument holds one
    for (bool its_end : {false, true}) parses([&] { HOLDS(parse_time(s, its_end) >= -1); });
    parses([&] { // days before 1970 and after 2262 are cut off there
        auto begin = parse_time(s, false);
        HOLDS(begin <= parse_time(s, true) + 1);
    });
    if (auto age = parse_age(s)) HOLDS(*age >= 0);
    parses([&] { parse_size(s); });
    parses([&] {
        auto sample = parse_sample(s);
        HOLDS(sample.share >= 0 && sample.share <= 1);
    });
    if (auto hash = parse_hash(s)) HOLDS(hex(*hash) == s);
}

void fuzz_sheet(View data) {
    std::optional<Secret> master;
    parses([&] { master = read_recovery_sheet(words(data)); });
    if (master) HOLDS(read_recovery_sheet(recovery_sheet(*master)) == *master);
}

/// Names of files, of a server's objects, and its words, on a terminal and in --json.
void fuzz_names(View data) {
    std::string name = words(data), shown = show(name);
    for (std::string_view rest = shown; !rest.empty();) {
        size_t n = utf8_length(rest);
        HOLDS(n > 0 && uint8_t(rest[0]) >= 0x20 && rest[0] != 0x7f);
        HOLDS(!(n == 2 && uint8_t(rest[0]) == 0xc2 && uint8_t(rest[1]) < 0xa0)); // C1
        rest.remove_prefix(n);
    }
    HOLDS(unshow(shown) == name);
    unshow(name);
    auto plain = plain_path(name);
    HOLDS(plain_path(plain) == plain && !plain.starts_with('/') && !plain.ends_with('/'));
    auto [a, b] = first_line(data);
    if (is_safe_path(a) && is_safe_path(b)) HOLDS(path_before(a, b) + path_before(b, a) + (a == b) == 1);
    for (char c : Json().add("a", name).add("b", std::vector{a, b}).line()) HOLDS(uint8_t(c) >= 0x20);
    // Base64: what is decoded and encoded again is decoded to the same.
    auto blob = unbase64(name);
    HOLDS(unbase64(base64(as_bytes(blob), true)) == blob);
}

// ---- the choice -----------------------------------------------------------------------------------

struct Target {
    void (*run)(View);
    std::function<std::vector<Bytes>()> seeds;
};
std::vector<Bytes> texts(std::initializer_list<const char*> all) {
    std::vector<Bytes> seeds;
    for (auto* s : all) seeds.push_back(bytes_of(s));
    return seeds;
}
Bytes behind(std::string_view head, Bytes rest) {
    rest.insert(rest.begin(), head.begin(), head.end());
    return rest;
}
const std::map<std::string, Target>& targets() {
    static const std::map<std::string, Target> all{
        {"key", {fuzz_key, [] { return std::vector<Bytes>{key_seed()}; }}},
        {"table", {fuzz_table, [] { return std::vector<Bytes>{encoded(table_seed())}; }}},
        {"object",
         {fuzz_object,
          [] {
              return std::vector<Bytes>{behind(std::string("\1\0\0\0\0\0\0\0\0", 9), encoded(table_seed())),
                                        behind(std::string("\0\x28\0\0\0\0\0\0\0", 9), encoded(Table()))};
          }}},
        {"frame",
         {fuzz_frame,
          [] {
              std::vector<Bytes> seeds;
              for (const char* raw :
                   {"", "x",
                    "a text that repeats, a text that repeats, a text that repeats, a text that repeats"}) {
                  Bytes copy = bytes_of(raw);
                  auto [head, body] = compress(copy);
                  head.insert(head.end(), body.begin(), body.end());
                  seeds.push_back(head);
              }
              return seeds;
          }}},
        {"wire",
         {fuzz_wire,
          [] {
              return std::vector<Bytes>{wire_seed(0, {{Part::data, 40}, {Part::note, 20}, {Part::done, 0}}),
                                        wire_seed(1, {{Part::data, 104}, {Part::done, 0}}),
                                        wire_seed(2, {{Part::data, 32}, {Part::data, 32}, {Part::done, 0}}),
                                        wire_seed(3, {{Part::ready, 0}, {Part::done, 0}}),
                                        wire_seed(4, {{Part::failed, 10}}),
                                        wire_seed(5, {{Part::ask_host, 40}, {Part::done, 0}}),
                                        wire_seed(6, {{Part::ask_words, 9}, {Part::done, 0}})};
          }}},
        {"segment", {fuzz_segment, [] { return std::vector<Bytes>{segment_seed()}; }}},
        {"snapshot",
         {fuzz_snapshot,
          [] {
              return std::vector<Bytes>{encode_snapshot(snapshot_seed()), encode_snapshot(Snapshot())};
          }}},
        {"tree",
         {fuzz_tree,
          [] {
              auto entries = tree_seed();
              auto seeds = std::vector<Bytes>{behind("\n", encoded(entries, "")),
                                              behind("dir\n", encoded({entries[1], entries[2]}, "dir"))};
              // A continuation, which in a real tree comes only after very many ids: flags 256, then 512.
              Entry plain;
              plain.path = "file";
              Writer w;
              w.varint(tree_flags::continued);
              w.raw(View(encoded({plain}, "file")).subspan(1));
              w.varint(tree_flags::continuation);
              w.varint(0);
              w.string("");
              w.varint(1);
              w.raw(filled<16>(1));
              seeds.push_back(behind("file\n", w.take()));
              return seeds;
          }}},
        {"restore",
         {fuzz_restore,
          [] {
              auto entries = tree_seed();
              entries.pop_back();
              entries[2].chunks = {};
              entries[2].size = 51'000;
              auto through = entries; // a link, then a file through it
              through[3].path = "dir/link/file";
              return std::vector<Bytes>{behind(std::string_view("\0\n", 2), encoded(entries, "")),
                                        behind("\1\n", encoded(through, "")),
                                        behind("\3\n", encoded(entries, ""))};
          }}},
        {"known_hosts",
         {fuzz_known_hosts,
          [] {
              return texts(
                  {"host\nhost ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIH0=\n",
                   "[host]:2222\n@revoked *.example,!a,[h?st]:2222 ssh-rsa AAAAB3NzaC1yc2EAAAA=\n# comment\n",
                   "host\n|1|c2FsdA==|aGFzaA== ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAA\n@cert-authority * "
                   "ssh-rsa AAAA\n"});
          }}},
        {"patterns",
         {fuzz_patterns,
          [] {
              return texts({"a/b/c.o\n*.o\n!c.o\n/a/\n# x\n", "dir/file\n**/file\ndir/**\n\\#a\\ \n",
                            "x\n[a-c]?[!x]\n"});
          }}},
        {"address",
         {fuzz_address,
          [] {
              return texts({"user@host:path", "sftp://user@host:22/path", "sftp://[::1]:2222//abs",
                            "user@[::1]:dir", "/local/path", "./a:b", "sftp://host", "host:~/x"});
          }}},
        {"numbers",
         {fuzz_numbers,
          [] {
              return texts({"2026-11-20", "2026-11-20 14:00", "3d", "12h", "10M", "500", "10%", "3/7",
                            "newer:7d", "files:20", "9999999w"});
          }}},
        {"sheet",
         {fuzz_sheet,
          [] {
              auto sheet = recovery_sheet(Secret(std::string_view("0123456789abcdef0123456789abcdef")));
              return std::vector<Bytes>{bytes_of(sheet), bytes_of("words\n" + sheet + "words")};
          }}},
        {"names",
         {fuzz_names,
          [] {
              return texts({"caf\xc3\xa9/\x1b[31m\\x41", "\xc2\x9b\xff\n\\", "a/./b//c\na/b"});
          }}},
    };
    return all;
}
void (*g_target)(View);

} // namespace

extern "C" int LLVMFuzzerInitialize(int*, char***) {
    const char* wanted = std::getenv("FUZZ");
    auto target = targets().find(wanted != nullptr ? wanted : "");
    if (target == targets().end()) {
        for (auto& [name, t] : targets()) std::puts(name.c_str());
        if (wanted != nullptr && std::string_view(wanted) == "list") std::exit(0);
        std::fputs("FUZZ must name one of these targets.\n", stderr);
        std::exit(2);
    }
    if (const char* dir = std::getenv("FUZZ_SEEDS")) {
        size_t number = 0;
        for (auto& seed : target->second.seeds())
            std::ofstream(text(dir, "/seed", number++), std::ios::binary)
                .write(reinterpret_cast<const char*>(seed.data()), long(seed.size()));
        std::exit(0);
    }
    setenv("TZ", "UTC", 1);
    umask(022);
    g_target = target->second.run;
    return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    g_target({data, size});
    return 0;
}
