// README.md is true: the commands of its first transcript are typed as they stand there, on a terminal, and
// what comes must be what it shows.
#include <unistd.h>

#include <regex>

#include "support.hpp"
#include "trees.hpp"

using namespace support;

namespace {

// The lines between the mark and the end of the block behind it.
Strings block_of(const std::string& readme, const std::string& mark) {
    const std::size_t begin = readme.find("\n```\n", readme.find(mark));
    const std::size_t end = readme.find("\n```\n", begin + 1);
    REQUIRE(end != std::string::npos);
    return lines_of(readme.substr(begin + 5, end - begin - 4));
}

struct Step {
    std::string command, shown;
};
std::vector<Step> steps_of(const Strings& lines) {
    std::vector<Step> steps;
    for (const std::string& line : lines) {
        if (line.rfind("$ ", 0) == 0) {
            steps.push_back({line.substr(2), ""});
        } else {
            REQUIRE_FALSE(steps.empty());
            steps.back().shown += line + "\n";
        }
    }
    return steps;
}

// What differs from one machine and run to the next is replaced by a word.
std::string leveled(std::string text, const std::string& here) {
    const std::string home = "/home/me";
    for (std::size_t at = 0; (at = text.find(here, at)) != std::string::npos; at += home.size())
        text.replace(at, here.size(), home);
    char host[256] = "";
    gethostname(host, sizeof host - 1);
    for (const auto& [pattern, by] : {std::pair{std::string(" ") + host + "([ :])", " laptop$1"},
                                      {"[^\n]*\r\x1b\\[K", ""}, // a line of progress that was taken away
                                      {"\r", ""},
                                      {"SHA256:[A-Za-z0-9+/]+", "PRINT"},
                                      {"\\[127\\.0\\.0\\.1\\]:[0-9]+", "box.example.org"},
                                      {"[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9:]+", "TIME"},
                                      {"\\b[0-9a-f]{8,64}\\b", "ID"},
                                      {"[0-9.]+ ([KMG]iB|B)", "SIZE"},
                                      {"time: [0-9.]+ s", "TIME"},
                                      {"confined by [^\n]+", "confined by WALLS"}, // this kernel's
                                      {"([d-][rwx-]{9}) +[^ ]+ +[^ ]+ ", "$1 OWNER "},
                                      {" +", " "},
                                      {" +\n", "\n"}})
        text = std::regex_replace(text, std::regex(pattern), by);
    return text;
}

} // namespace

TEST_SUITE_BEGIN("readme");

TEST_CASE("readme: the first five minutes are as README.md shows them") {
    Sshd server;
    Site site(server);
    const fs::path work = site.dir / "me";
    fs::create_directories(work / "bin");
    fs::create_symlink(nfreeze_binary(), work / "bin/nfreeze");
    write_file(work / "Documents/letter.txt", "Dear reader,\n");
    write_random_file(work / "Documents/photos/beach.jpg", 3'000'000, 1);
    write_random_file(work / "Documents/photos/hills.jpg", 2'000'000, 2);
    fs::remove(site.home / ".ssh/known_hosts"); // nobody was there before
    write_file(site.home / ".ssh/config", "Host box\n  HostName 127.0.0.1\n  Port " +
                                              std::to_string(server.port()) + "\n  User " + server.user() +
                                              "\n");
    RunOptions options = site.options;
    options.env.erase("NFREEZE_PASSWORD");
    options.env["PATH"] = (work / "bin").string() + ":" + getenv("PATH");
    options.unset = {"NFREEZE_PASSWORD", "SSH_AUTH_SOCK"};
    options.cwd = work;
    options.pty = true;

    const auto steps = steps_of(
        block_of(read_file(fs::path(NFREEZE_TESTS_DIR) / "../README.md"), "## The first five minutes"));
    CHECK(steps.size() > 8);
    for (const Step& step : steps) {
        CAPTURE(step.command);
        options.dialog.clear();
        for (const std::string& line : lines_of(step.shown)) {
            if (contains(line, "(yes/no)? ")) options.dialog.push_back({"(yes/no)? ", "yes"});
            for (const char* question : {"Passphrase of the repository:", "The same again:"})
                if (line.rfind(question, 0) == 0)
                    options.dialog.push_back({std::string(question) + " ", passphrase});
        }
        const Result result = run({"sh", "-c", step.command}, options);
        CHECK(result.code == 0);
        CHECK(leveled(result.out, fs::canonical(work).string()) == leveled(step.shown, "/home/me"));
    }
    CHECK(read_file(work / "restored/letter.txt") == "Dear reader,\nP.S.\n");
}

TEST_SUITE_END();
