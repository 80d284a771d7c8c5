// What a run's answer says, and what is planted for it to find: shared by the scenarios.
#pragma once

#include <cstdlib>

#include "support.hpp"
#include "trees.hpp"

namespace support {

// The number that follows `before`; a text without it ends the test.
inline double decimal_in(const std::string& text, const std::string& before) {
    const std::size_t at = text.find(before);
    REQUIRE_MESSAGE(at != std::string::npos, "'" << before << "' is not in: " << text);
    return std::strtod(text.c_str() + at + before.size(), nullptr);
}
inline std::uint64_t number_in(const std::string& text, const std::string& before) {
    return static_cast<std::uint64_t>(decimal_in(text, before));
}
inline std::size_t count_in(std::string_view text, std::string_view part) {
    std::size_t found = 0;
    for (std::size_t at = 0; (at = text.find(part, at)) != std::string_view::npos; at += part.size()) ++found;
    return found;
}

inline std::string joined(const Strings& words) {
    std::string all;
    for (const std::string& word : words) all += (all.empty() ? "'" : " '") + word + "'";
    return all;
}

// The first eight digits of the snapshots' ids, the oldest first.
inline Strings ids_in(const Site& site, const Strings& flags = {}) {
    Strings arguments{"snapshots"};
    arguments.insert(arguments.end(), flags.begin(), flags.end());
    arguments.push_back(site.url);
    const Result result = site.nfreeze(arguments);
    REQUIRE_EXIT(result, 0);
    Strings ids, lines = lines_of(result.out);
    for (std::size_t i = 1; i < lines.size(); ++i) ids.push_back(lines[i].substr(0, 8));
    return ids;
}

// As if all that the repository holds had come so much earlier, by the server's clock.
inline void pass_days(const Site& site, int days) {
    for (const char* dir : {"index", "packs"})
        for (const auto& file : files_below(site.repo / dir)) {
            const timespec at = mtime_of(file);
            set_mtime(file, at.tv_sec - days * 86400, at.tv_nsec);
        }
}

// A run through the shell, which understands redirections: `script` has the program as $0 and what follows as
// "$@".
inline Result in_shell(const std::string& script, const Strings& arguments, const RunOptions& options) {
    Strings argv{"sh", "-c", script, nfreeze_binary()};
    argv.insert(argv.end(), arguments.begin(), arguments.end());
    return run(argv, options);
}

// Whether tests/reader.py and tests/planter.py run here; notes it where they do not.
[[nodiscard]] inline bool have_reader() {
    const std::string imports = "import cryptography.hazmat.primitives.kdf.scrypt, xxhash, zstandard";
    if (have_program("python3") && run({"python3", "-c", imports}).code == 0) return true;
    skipped("a second reader: needs python3-cryptography, python3-xxhash and python3-zstandard");
    return false;
}

// Puts what nfreeze would not write into a repository that lies here: see tests/planter.py. Returns what that
// prints.
inline std::string plant(const Site& site, const Strings& what) {
    Strings argv{"python3", fs::path(NFREEZE_TESTS_DIR) / "planter.py", site.repo};
    argv.insert(argv.end(), what.begin(), what.end());
    RunOptions options = site.options;
    options.uid.reset();
    std::string printed = must_run(argv, options);
    while (printed.ends_with('\n')) printed.pop_back();
    return printed;
}

} // namespace support
