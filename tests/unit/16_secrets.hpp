// Secrets are wiped (I8): what this process's memory holds of them once all that used them is gone.

namespace {

/// Looks for secrets in all that this process may write to. They are known by the complement of their last
/// bytes only, so that whoever looks does not find himself; the first bytes of what was freed belong to the
/// heap.
class MemorySearch {
  public:
    void add(const char* what, View secret) {
        Needle n{what, {}};
        for (uint8_t b : secret.last(std::min<size_t>(secret.size(), 16)))
            n.complement.push_back(uint8_t(~b));
        needles_.push_back(std::move(n));
    }
    /// Which of them are somewhere, and where; "" if none is anywhere. Takes nothing from the heap, which
    /// would overwrite what it looks for.
    std::string found() {
        std::string where;
        Fd list(::open("/proc/self/maps", O_RDONLY | O_CLOEXEC)),
            memory(::open("/proc/self/mem", O_RDONLY | O_CLOEXEC));
        size_t size = 0, looked = 0;
        for (ssize_t n; (n = ::read(list.get(), maps_ + size, kSize - 1 - size)) > 0;) size += size_t(n);
        maps_[size] = 0;
        for (auto* line = reinterpret_cast<char*>(maps_); line && *line;
             line = std::strchr(line, '\n'), line += line != nullptr) {
            uint64_t begin = 0, end = 0;
            char rights[5] = "";
            if (std::sscanf(line, "%lx-%lx %4s", &begin, &end, rights) != 3 ||
                std::strncmp(rights, "rw", 2) != 0)
                continue;
            for (uint64_t at = begin; at < end; at += kSize - 64) { // 64: what lies across two parts
                auto n = pread(memory.get(), part_, size_t(std::min<uint64_t>(kSize, end - at)), off_t(at));
                if (n <= 0) break;
                looked += size_t(n);
                for (auto& needle : needles_)
                    if (size_t i = find({part_, size_t(n)}, needle.complement); i != SIZE_MAX)
                        where += text(needle.what, " at ", std::hex, at + i, " in ",
                                      std::string_view(line).substr(0, std::strcspn(line, "\n")), "; ");
            }
        }
        CryptoPP::SecureWipeBuffer(part_, kSize);
        if (looked < 100'000) throw std::runtime_error("cannot look at this process's memory");
        return where;
    }

  private:
    struct Needle {
        const char* what;
        Bytes complement;
    };
    static size_t find(View in, const Bytes& complement) {
        for (size_t from = 0; from + complement.size() <= in.size();) {
            auto* at = static_cast<const uint8_t*>(
                std::memchr(&in[from], uint8_t(~complement[0]), in.size() - complement.size() + 1 - from));
            if (!at) break;
            from = size_t(at - in.data());
            size_t same = 1;
            while (same < complement.size() && at[same] == uint8_t(~complement[same])) ++same;
            if (same == complement.size()) return from;
            ++from;
        }
        return SIZE_MAX;
    }
    static constexpr size_t kSize = MiB;
    static uint8_t* mapped() {
        return static_cast<uint8_t*>(
            mmap(nullptr, kSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    }
    uint8_t *part_ = mapped(), *maps_ = mapped();
    std::vector<Needle> needles_;

  public:
    MemorySearch() = default;
    ~MemorySearch() {
        munmap(part_, kSize);
        munmap(maps_, kSize);
    }
    MemorySearch(const MemorySearch&) = delete;
    MemorySearch& operator=(const MemorySearch&) = delete;
};

/// A passphrase that nothing but what it returns ever held.
Secret fresh_words(size_t length) {
    Secret words(length);
    fill_random(words.span());
    for (auto& c : words.span()) c = uint8_t('!' + c % 90);
    return words;
}
/// Notes the secrets of a repository.
void add_secrets(MemorySearch& search, Store& store, const Secret& words) {
    auto objects = Repository::read_keys(store);
    auto master = Repository::unlock(objects, words);
    search.add("the passphrase", words.view());
    search.add("the master key", master.view());
    Keys keys(master);
    for (auto& [what, key] : {std::pair("the id key", &id_key(keys)),
                              {"the gear key", &keys.gear()},
                              {"the pack key", &pack_key(keys)},
                              {"the index key", &index_key(keys)}})
        search.add(what, key->view());
    auto& object = objects.whole.at(0).second;
    search.add("the passphrase's key", stretch(words, View(inside(object)).subspan(17, 32), cheap()).view());
    auto sheet = recovery_sheet(master);
    search.add("the recovery sheet", as_bytes(sheet).subspan(30, 20));
    wipe(sheet);
}
void add_object_keys(MemorySearch& search, TestStore& store, const Secret& words) {
    auto objects = Repository::read_keys(store);
    Keys keys(Repository::unlock(objects, words));
    for (auto& [name, bytes] : store.objects)
        if (!name.starts_with("keys/"))
            search.add("the key of an object",
                       hkdf((name.starts_with("packs/") ? pack_key(keys) : index_key(keys)).view(),
                            View(bytes).subspan(8, sizeof(Salt)), "nfreeze object")
                           .view());
}
/// As the program does with --option VALUE.
Secret passphrase_by(const char* option, const std::string& value) {
    std::string name = "ls", o = text("--", option), v = value, repo = "/nowhere";
    char* argv[] = {name.data(), o.data(), v.data(), repo.data(), nullptr};
    return get_passphrase(Arguments("ls", 4, argv), false);
}

} // namespace

TEST_CASE("secrets: the search finds what is there") {
    MemorySearch search;
    auto words = fresh_words(28);
    search.add("the passphrase", words.view());
    CHECK_NAMES(search.found(), "the passphrase");
    { Secret gone = std::move(words); }
    CHECK(search.found() == "");
}

TEST_CASE("secrets: of a passphrase, and of all keys that it leads to, nothing is in memory once a "
          "repository was used and closed") {
    Captured said;
    support::TempDir dir;
    support::write_random_file(dir / "src/a", 700'000, 1);
    support::write_random_file(dir / "src/b", 100, 2);
    MemorySearch search;
    std::string while_open;
    {
        TestStore store;
        auto words = fresh_words(28);
        Repository::init(store, words, cheap(), 1, "test");
        add_secrets(search, store, words);
        BackupOptions o;
        o.connections = 2;
        Backup(*Repository::open(store, [&] { return words.clone(); }), o)
            .run((dir / "src").string(), Scene::record("host"));
        {
            auto repo = Repository::open(store, [&] { return words.clone(); });
            RestoreOptions r;
            RestoreResult result;
            Restore(*repo, *repo->snapshots().at(0), r).run((dir / "dest").string(), result);
            CHECK(result.restored == 2);
            CheckResult checked;
            Sample all;
            Check(*repo, 2).run(&all, true, checked);
            forget(*repo, repo->snapshots());
            prune(*repo, thorough(0));
            while_open = search.found();
        }
        add_object_keys(search, store, words);
        // A second passphrase, the sheet and back, a wrong passphrase.
        auto master = Repository::unlock(Repository::read_keys(store), words);
        auto other = fresh_words(20);
        search.add("the other passphrase", other.view());
        Repository::add_key(store, master, other, cheap(), 1, "test");
        auto sheet = recovery_sheet(master);
        CHECK(read_recovery_sheet(sheet) == master);
        wipe(sheet);
        auto wrong = fresh_words(22);
        search.add("a wrong passphrase", wrong.view());
        CHECK_THROWS_AS(Repository::open(store, [&] { return wrong.clone(); }), Error);
    }
    for (auto* what : {"the passphrase", "the id key", "the pack key", "the index key"})
        CHECK_NAMES(while_open, what);
    CHECK(search.found() == "");
}

TEST_CASE(
    "secrets: each step leaves nothing behind in memory that was freed, before anything else uses that") {
    for (auto* step : {"a key object is made", "a key object is opened", "a wrong passphrase is tried",
                       "a sheet is printed", "a sheet is read", "keys are derived", "an object is sealed"}) {
        CAPTURE(std::string(step));
        MemorySearch search;
        CHECK(search.found() == ""); // all buffers of the search are made
        {
            auto words = fresh_words(28), master = fresh_words(32);
            search.add("the passphrase", words.view());
            search.add("the master key", master.view());
            Keys keys(master);
            search.add("the pack key", pack_key(keys).view());
            std::string_view now = step;
            Bytes object;
            if (now.find("key object") != now.npos || now.find("wrong") != now.npos)
                object = encode_key_object(master, words, cheap(), 1, "test");
            if (now == "a key object is opened") CHECK(open_key_object(object, words).has_value());
            if (now == "a wrong passphrase is tried")
                CHECK_FALSE(open_key_object(object, fresh_words(28)).has_value());
            if (now.find("sheet") != now.npos) {
                auto sheet = recovery_sheet(master);
                search.add("the sheet", as_bytes(sheet).subspan(35, 20));
                if (now == "a sheet is read") CHECK(read_recovery_sheet(sheet) == master);
                wipe(sheet);
            }
            if (now == "an object is sealed") {
                Sealer sealer(keys, kPackLabel);
                sealer.add({}, noise(1000, 1));
                auto sealed = sealer.finish();
                search.add("the object's key",
                           hkdf(pack_key(keys).view(), sealed.salt, "nfreeze object").view());
                CHECK(open_object(keys, kPackLabel, Keys::back(sealed.sealed), "a pack").frames.size() == 1);
            }
        }
        CHECK(search.found() == "");
    }
}

TEST_CASE(
    "secrets: a passphrase leaves nothing behind on its way from a file or a command, however long it is") {
    for (size_t length : {size_t(8), size_t(15), size_t(16), size_t(40), size_t(5000)}) {
        CAPTURE(length);
        support::TempDir dir;
        MemorySearch search;
        auto file = (dir / "words").string();
        {
            auto words = fresh_words(length);
            search.add("the passphrase", words.view());
            Fd to(::open(file.c_str(), O_WRONLY | O_CREAT, 0600));
            write_full(to.get(), words.view(), file);
            write_full(to.get(), as_bytes("\n"), file);
        }
        CHECK(search.found() == "");
        CHECK(passphrase_by("password-file", file).size() == length);
        CHECK(search.found() == "");
        CHECK(passphrase_by("password-command", "cat " + file).size() == length);
        CHECK(search.found() == "");
    }
}
