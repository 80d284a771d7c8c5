// What the sizes of objects tell a server, which sees nothing else of them.

namespace {

/// The sizes of all objects of a repository into which these files were stored, by directory.
std::map<std::string, std::vector<size_t>>
sizes_with(const std::vector<std::pair<std::string, std::vector<Bytes>>>& files) {
    TestStore store = new_repository();
    store_snapshot(store, 1, files);
    std::map<std::string, std::vector<size_t>> sizes;
    for (auto& [name, bytes] : store.objects) sizes[name.substr(0, name.find('/'))].push_back(bytes.size());
    for (auto& [dir, all] : sizes) std::ranges::sort(all);
    return sizes;
}
std::vector<Bytes> cut_up(const Chunker& chunker, const Bytes& content) {
    std::vector<Bytes> chunks;
    for (View rest = content; !rest.empty(); rest = rest.subspan(chunks.back().size())) {
        auto part = rest.first(chunker.cut(rest));
        chunks.emplace_back(part.begin(), part.end());
    }
    return chunks;
}

} // namespace

TEST_CASE("sizes: small files, as many and as much in sum, look the same whatever their own sizes") {
    auto even =
        sizes_with({{"a", {noise(100'000, 1)}}, {"b", {noise(100'000, 2)}}, {"c", {noise(100'000, 3)}}});
    CHECK(even["packs"].size() == 2);
    for (size_t less : {1'000u, 30'000u, 80'000u}) {
        CAPTURE(less);
        CHECK((sizes_with({{"a", {noise(100'000 - less, 4)}},
                           {"b", {noise(100'000 + less, 5)}},
                           {"c", {noise(100'000, 6)}}}) == even));
    }
    // One that is a tenth larger does not: the sum is what can be seen.
    CHECK_FALSE(
        (sizes_with({{"a", {noise(130'000, 4)}}, {"b", {noise(100'000, 5)}}, {"c", {noise(100'000, 6)}}}) ==
         even));
}

TEST_CASE("sizes: a file of 3 MB and one of 1 MB look like two of 2 MB that were cut into as many chunks") {
    TestStore store = new_repository();
    Chunker chunker(open_repository(store)->keys.gear());
    // Where a file is cut depends on its content and on the key, so contents are tried until there are as
    // many chunks.
    constexpr size_t kWanted = 5;
    auto files = [&](size_t a, size_t b, uint64_t seed) {
        for (;; seed += 2) {
            auto first = cut_up(chunker, noise(a, seed)), second = cut_up(chunker, noise(b, seed + 1));
            if (first.size() + second.size() == kWanted && first.size() > 1 && second.size() > 1)
                return std::vector<std::pair<std::string, std::vector<Bytes>>>{{"a", first}, {"b", second}};
        }
    };
    auto even = sizes_with(files(2'000'000, 2'000'000, 1));
    CHECK(even["packs"].size() == 2);
    for (uint64_t seed : {1000u, 2000u, 3000u}) {
        CHECK((sizes_with(files(3'000'000, 1'000'000, seed)) == even));
        CHECK((sizes_with(files(2'500'000, 1'500'000, seed)) == even));
    }
}

TEST_CASE("sizes: all packs of content but the last have 14 to 19 MiB, whatever the files are; no more can "
          "be told from their number") {
    TestStore store = new_repository();
    Chunker chunker(open_repository(store)->keys.gear());
    const size_t total = 60 * MiB;
    std::set<size_t> numbers;
    for (size_t file_size : {size_t(50'000), size_t(700'000), 2 * MiB, total}) {
        CAPTURE(file_size);
        std::vector<std::pair<std::string, std::vector<Bytes>>> files;
        auto content = noise(total, file_size);
        for (size_t at = 0; at < total; at += file_size) {
            View part = View(content).subspan(at, std::min(file_size, total - at));
            files.emplace_back(text("file", 1000 + files.size()),
                               cut_up(chunker, Bytes(part.begin(), part.end())));
        }
        auto packs = sizes_with(files)["packs"];
        std::erase_if(packs, [](size_t n) { return n < MiB; }); // of the tree
        numbers.insert(packs.size());
        size_t sum = 0;
        for (size_t n : packs) {
            sum += n;
            CHECK(n < 19 * MiB);
            CHECK(padme(n) == n);
        }
        CHECK(sum > total);
        CHECK(sum < total + total / 30); // 3 % of padding
        CHECK(std::ranges::count_if(packs, [](size_t n) { return n < 14 * MiB; }) <= 1);
    }
    CHECK(*numbers.rbegin() - *numbers.begin() <= 1);
}
