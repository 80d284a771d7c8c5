// The test runner. Before any test runs, its environment is made one in which nothing of the
// tester's own can be read or written: a scratch home, no agent, no settings of nfreeze.
#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>
#include <sys/stat.h>

#include <csignal>
#include <cstdlib>
#include <iostream>

#include "support.hpp"

extern char** environ;

namespace {

support::Strings skips;
std::string running_test;
int tests_run = 0; // the runner's own count includes those outside of --first and --last

// Shows what the children of a test printed where an assertion of it fails, and lists at the end,
// before the runner's own summary, what could not be tested on this machine.
struct Reporter : doctest::IReporter {
    explicit Reporter(const doctest::ContextOptions&) {}
    void test_case_start(const doctest::TestCaseData& test) override {
        running_test = test.m_name;
        ++tests_run;
        support::forget_transcript();
    }
    void log_assert(const doctest::AssertData& assertion) override {
        if (!assertion.m_failed) return;
        const std::string text = support::take_transcript();
        if (!text.empty())
            std::cout << "---- runs before the failed assertion below ----\n" << text << std::endl;
    }
    void test_case_exception(const doctest::TestCaseException&) override {
        const std::string text = support::take_transcript();
        if (!text.empty()) std::cout << "---- runs before the exception below ----\n" << text << std::endl;
    }
    void test_run_end(const doctest::TestRunStats&) override {
        for (const std::string& skip : skips) std::cout << "SKIPPED: " << skip << "\n";
        std::cout << "skipped here: " << skips.size() << "\ntest cases begun: " << tests_run << std::endl;
    }
    void report_query(const doctest::QueryData&) override {}
    void test_run_start() override {}
    void test_case_reenter(const doctest::TestCaseData&) override {}
    void test_case_end(const doctest::CurrentTestCaseStats&) override {}
    void subcase_start(const doctest::SubcaseSignature&) override {}
    void subcase_end() override {}
    void log_message(const doctest::MessageData&) override {}
    void test_case_skipped(const doctest::TestCaseData&) override {}
};

REGISTER_LISTENER("transcript", 1, Reporter);

void take_over_environment(const support::fs::path& home) {
    support::Strings names;
    for (char** line = environ; *line != nullptr; ++line) {
        const std::string text = *line;
        names.push_back(text.substr(0, text.find('=')));
    }
    for (const std::string& name : names)
        if ((name.starts_with("NFREEZE_") && !name.starts_with("NFREEZE_TEST_")) ||
            name.starts_with("SSH_") || name.starts_with("AWS_") || name.starts_with("RCLONE_") ||
            name == "DISPLAY" || name == "RSYNC_RSH")
            unsetenv(name.c_str());
    setenv("HOME", home.c_str(), 1);
    setenv("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", 1);
    setenv("LC_ALL", "C", 1);
    setenv("TZ", "UTC", 1);
    // The cheapest key derivation the program accepts: each run pays for it.
    setenv("NFREEZE_SCRYPT_LOGN", "15", 1);
    // So that settle() need not take a minute.
    setenv("NFREEZE_RACY_SECONDS", "2", 1);
    umask(022);
    std::signal(SIGPIPE, SIG_IGN);
    // nohup and shells' background jobs leave some ignored, which children would inherit.
    for (const int signal : {SIGHUP, SIGINT, SIGQUIT, SIGTERM}) std::signal(signal, SIG_DFL);
}

} // namespace

namespace support {

void skipped(const std::string& reason) {
    MESSAGE("skipped: " << reason);
    skips.push_back(running_test + ": " + reason);
}

} // namespace support

int main(int argc, char** argv) {
    const support::TempDir home;
    take_over_environment(home.path());
    doctest::Context context(argc, argv);
    return context.run();
}
