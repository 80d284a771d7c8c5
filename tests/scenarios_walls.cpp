// Walls that the compiler guards: what leaves was sealed, what came is not looked into before it is opened.
#include <set>

#include "support.hpp"

using namespace support;

TEST_SUITE_BEGIN("walls");

TEST_CASE(
    "walls: each misuse of what is sealed, of what came, of names and of keys is refused by the compiler") {
    const fs::path source = fs::path(NFREEZE_TESTS_DIR) / "walls/misuse.cpp";
    std::set<std::size_t> wanted, refused;
    const Strings lines = lines_of(read_file(source));
    for (std::size_t i = 0; i < lines.size(); ++i)
        if (contains(lines[i], "// WALL")) wanted.insert(i + 1);
    REQUIRE(wanted.size() > 20);
    // All errors there are, each with its line; those within the program itself come with one in that file.
    RunOptions options;
    options.env["CPATH"] = NFREEZE_INCLUDES;
    const Result result = run({NFREEZE_COMPILER, "-std=c++20", "-fsyntax-only", "-w", source}, options);
    CHECK(result.code != 0);
    const std::string begin = source.string() + ":";
    for (const std::string& line : lines_of(result.err)) {
        if (!contains(line, "error:")) continue;
        INFO(line);
        REQUIRE(line.starts_with(begin));
        const std::size_t number = std::stoul(line.substr(begin.size()));
        CHECK_MESSAGE(wanted.contains(number), "an error where none is wanted");
        refused.insert(number);
    }
    for (const std::size_t number : wanted)
        CHECK_MESSAGE(refused.contains(number), "this compiles: " << lines[number - 1]);
}

TEST_CASE("walls: README says how much there is to read for them") {
    const fs::path root = fs::path(NFREEZE_TESTS_DIR).parent_path();
    std::size_t lines = 0;
    bool inside = false;
    for (const std::string& line : lines_of(read_file(root / "nfreeze.cpp"))) {
        if (line.starts_with("// [SECTION] 4.")) inside = true;
        if (line.starts_with("// [SECTION] 6.")) inside = false;
        lines += inside;
    }
    // Whoever lets it grow says so there, on purpose.
    CHECK_NAMES(read_file(root / "README.md"),
                "sections 4 and 5 first (" + std::to_string(lines) + " lines,");
}

TEST_SUITE_END();
