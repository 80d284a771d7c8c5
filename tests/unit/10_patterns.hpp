// Section 10: patterns of what a backup leaves out, against git's.

namespace {

/// A tree whose names come from a few letters, and pattern files that match much of it.
class PatternMaker {
  public:
    explicit PatternMaker(uint64_t seed) : random_(seed) {
        std::vector<std::string> directories{""};
        while (paths.size() < 150) {
            bool directory = one_in(2);
            auto above = directories[random_.below(directories.size())];
            auto path = above.empty() ? name() : above + "/" + name();
            if (!paths.emplace(path, directory).second || !directory) continue;
            if (std::ranges::count(path, '/') < 4) directories.push_back(path);
        }
    }
    std::map<std::string, bool> paths; // whether it is a directory

    std::string patterns() {
        std::string lines;
        for (auto n = 1 + random_.below(5); n > 0; --n) lines += line() + "\n";
        return lines;
    }

  private:
    bool one_in(uint64_t n) { return random_.below(n) == 0; }
    template <size_t N> const std::string& pick(const std::string (&list)[N]) {
        return list[random_.below(N)];
    }

    std::string name() {
        static const std::string names[] = {"a",   "b",    "c",   "ab",  "ba", "abc", "a.b",
                                            ".a",  "!a",   "#a",  "a b", "a ", "a*",  "a\\",
                                            "\\a", "a\\ ", "[a]", "-",   "?",  "]",   "\xc3\xa4"};
        return pick(names);
    }
    std::string line() {
        if (one_in(20)) return one_in(2) ? "" : "   ";
        if (one_in(20)) return "# " + name();
        std::string line;
        if (one_in(3)) line += "!";
        if (one_in(4)) line += "/";
        if (one_in(8)) line += "**/";
        line += one_in(2) ? like_a_path() : at_random();
        if (one_in(4)) line += "/";
        if (one_in(8)) line += "/**";
        if (one_in(40)) line += "/";
        while (one_in(6)) line += one_in(4) && !line.ends_with("**") ? "\\ " : " ";
        return line;
    }
    /// A path of the tree, or its end, less exact.
    std::string like_a_path() {
        auto found = paths.begin();
        std::advance(found, long(random_.below(paths.size())));
        auto path = found->first;
        for (size_t slash; one_in(2) && (slash = path.find('/')) != path.npos;) path.erase(0, slash + 1);
        std::string line;
        std::istringstream names(path);
        for (std::string name; std::getline(names, name, '/');) {
            if (!line.empty()) line += "/";
            after_asterisk_ = false;
            if (one_in(6)) line += "**/";
            if (one_in(6))
                line += "**";
            else
                for (char c : name) line += one_in(5) ? atom() : escaped(c);
        }
        return line;
    }
    std::string at_random() {
        std::string line;
        do {
            if (!line.empty()) line += one_in(20) ? "//" : "/";
            after_asterisk_ = false;
            if (one_in(8))
                line += "**";
            else
                for (auto n = 1 + random_.below(3); n > 0; --n) line += atom();
        } while (one_in(3));
        return line;
    }
    /// Not generated, because git does with them what its documentation does not say (see below):
    /// an asterisk next to an asterisk that is not a whole name, a bracket that is not closed, a
    /// slash in brackets or behind a backslash.
    std::string atom() {
        static const std::string atoms[] = {"a",
                                            "b",
                                            "c",
                                            "*",
                                            "?",
                                            "[a-c]",
                                            "[!a]",
                                            "[^b]",
                                            "[]a]",
                                            "[!]a]",
                                            "[\\a]",
                                            "[\\]]",
                                            "[b\\-]",
                                            "[-a]",
                                            "[ab-]",
                                            "[[:alpha:]]",
                                            "[[:punct:] ]",
                                            "\\a",
                                            "\\*",
                                            "\\ ",
                                            "\\\\",
                                            "\\[",
                                            "!",
                                            "#",
                                            ".",
                                            "-",
                                            "a",
                                            "b",
                                            "\xc3"};
        auto& chosen = pick(atoms);
        if (chosen != "*" || !after_asterisk_) {
            after_asterisk_ = chosen == "*";
            return chosen;
        }
        after_asterisk_ = false;
        return "a";
    }
    std::string escaped(char c) {
        after_asterisk_ = false;
        return strchr("\\*?[", c) || (c == ' ' && one_in(2)) ? text("\\", c) : std::string(1, c);
    }

    support::Random random_;
    bool after_asterisk_ = false;
};

/// Whether the walk of a backup leaves this path out: it asks for nothing below what it left out.
bool left_out(const Patterns& patterns, const std::string& path, bool directory) {
    for (size_t slash = path.find('/'); slash != path.npos; slash = path.find('/', slash + 1))
        if (patterns.exclude(path.substr(0, slash), true)) return true;
    return patterns.exclude(path, directory);
}

Patterns parsed_patterns(const std::string& lines) {
    Patterns patterns;
    for (auto& line : support::lines_of(lines)) patterns.add(line);
    return patterns;
}

} // namespace

TEST_CASE("patterns: tens of thousands of questions are answered as git check-ignore does") {
    if (!support::have_program("git"))
        return support::skipped("comparing patterns with git's: there is no git");
    support::TempDir dir;
    PatternMaker maker(10);
    std::string question;
    for (auto& [path, directory] : maker.paths) {
        auto place = dir / "tree" / path;
        support::fs::create_directories(directory ? place : place.parent_path());
        if (!directory) support::write_file(place, "");
        question += path + '\0';
    }
    support::RunOptions options;
    options.cwd = dir / "tree";
    options.env = {{"GIT_CONFIG_NOSYSTEM", "1"}};
    options.unset = {"GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"};
    options.input = question;
    support::must_run({"git", "init", "-q"}, options);

    size_t asked = 0, excluded = 0, taken_back = 0, wrong = 0;
    for (int round = 0; round < 120; ++round) {
        auto lines = maker.patterns();
        support::write_file(dir / "tree/.git/info/exclude", lines);
        auto answer = support::run(
            {"git", "check-ignore", "--no-index", "--verbose", "--non-matching", "-z", "--stdin"}, options);
        REQUIRE((answer.code == 0 || answer.code == 1)); // 1: it excludes none of them
        support::forget_transcript();
        // For each path: where the pattern is, in which line, the pattern, the path. No pattern
        // matches: the first three are empty.
        std::istringstream fields(answer.out);
        auto field = [&] {
            std::string s;
            std::getline(fields, s, '\0');
            return s;
        };
        auto patterns = parsed_patterns(lines);
        std::string differences;
        for (auto& [path, directory] : maker.paths) {
            (void)field(), (void)field();
            auto by = field();
            REQUIRE(field() == path);
            bool wanted = !by.empty() && by[0] != '!';
            ++asked;
            if (wanted) ++excluded;
            if (!wanted && !by.empty()) ++taken_back;
            if (left_out(patterns, path, directory) == wanted) continue;
            if (std::ranges::count(differences, '\n') < 5)
                differences += text(wanted ? "git leaves out " : "git takes ", path, directory ? "/" : "",
                                    by.empty() ? "" : " by ", by, "\n");
        }
        INFO("patterns:\n", lines, differences);
        CHECK(differences.empty());
        if (!differences.empty() && ++wrong == 10) break;
    }
    // Otherwise the test tests nothing.
    INFO(asked, " asked, ", excluded, " excluded, ", taken_back, " taken back");
    CHECK(excluded > asked / 10);
    CHECK(excluded < asked / 2);
    CHECK(taken_back > asked / 50);
}

// What is not generated above: git 2.39 does otherwise than gitignore(5) and fnmatch(3), to which
// it refers, say. The documents count.
TEST_CASE("patterns: asterisks and brackets mean what is documented where git departs from it") {
    auto excludes = [](const char* pattern, const char* path) {
        return parsed_patterns(pattern).exclude(path, false);
    };
    // "Other consecutive asterisks are considered regular asterisks": git takes them for "**" where
    // what precedes them has no wildcard, and where there are three.
    CHECK(excludes("a**/b", "ax/b"));
    CHECK(excludes("a**/b", "a/b"));
    CHECK_FALSE(excludes("a**/b", "ax/y/b"));
    CHECK(excludes("a/***/b", "a/x/b"));
    CHECK_FALSE(excludes("a/***/b", "a/b"));
    CHECK_FALSE(excludes("a/***/b", "a/x/y/b"));
    // A bracket that is not closed is a bracket; to git, the pattern matches nothing.
    CHECK(excludes("[a", "[a"));
    CHECK_FALSE(excludes("[a", "a"));
    // So it is where a slash comes before the end: no name has one. To git it is one of the
    // letters.
    CHECK(excludes("[a/b]c", "[a/b]c"));
    CHECK_FALSE(excludes("[a/b]c", "ac"));
}

TEST_CASE("patterns: one of many asterisks is answered at once") { // else: years
    std::string path = "a", deep, wide = "*";
    for (int i = 0; i < 500; ++i) path += "/a";
    for (int i = 0; i < 200; ++i) deep += "**/a/";
    for (int i = 0; i < 100; ++i) wide += "a*";
    CHECK(parsed_patterns(deep + "a").exclude(path, false));
    CHECK_FALSE(parsed_patterns(deep + "b").exclude(path, false));
    CHECK(parsed_patterns(wide).exclude(std::string(250, 'a'), false));
    CHECK_FALSE(parsed_patterns(wide + "b").exclude(std::string(250, 'a'), false));
}

TEST_CASE("patterns: what ends a line") {
    auto excludes = [](const char* pattern, const char* path) {
        return parsed_patterns(pattern).exclude(path, true);
    };
    CHECK(excludes("a  ", "a"));
    CHECK(excludes("a\\  ", "a "));
    CHECK(excludes("a\\\\ ", "a\\")); // an escaped backslash, and a space that is not
    CHECK_FALSE(excludes("a\\\\ ", "a\\ "));
    CHECK_FALSE(excludes("a\\", "a"));
    CHECK_FALSE(excludes("a\\", "a\\"));
    CHECK(excludes("a/", "a"));
    CHECK_FALSE(excludes("a//", "a")); // no name is empty
    CHECK_FALSE(excludes("/", "a"));
}
