// Section 13: which snapshots the rules of a forget keep.

namespace {

/// Snapshots at these local times, the newest first as Repository gives them.
class History {
  public:
    explicit History(const std::vector<std::string>& times) {
        for (auto& time : times) {
            Snapshot s;
            s.id[0] = uint8_t(snapshots_.size() + 1);
            s.time = parse_time(time);
            snapshots_.push_back(s);
            names_[s.id] = time;
        }
        std::ranges::sort(snapshots_, std::greater{}, &Snapshot::time);
    }
    std::set<std::string> kept(const Keep& keep, const std::string& now) const {
        std::vector<const Snapshot*> group;
        for (auto& s : snapshots_) group.push_back(&s);
        std::set<std::string> names;
        for (auto& [id, why] : keep.chosen(group, parse_time(now))) names.insert(names_.at(id));
        return names;
    }

  private:
    std::vector<Snapshot> snapshots_;
    std::map<SnapshotId, std::string> names_;
};

Keep keep_of(const std::string& option, int number) {
    Keep keep;
    for (auto& rule : keep.rules)
        if (rule.option == option) rule.number = number;
    return keep;
}

struct Zone { // of local times, while it lives
    explicit Zone(const char* name) {
        setenv("TZ", name, 1);
        tzset();
    }
    ~Zone() {
        unsetenv("TZ");
        tzset();
    }
    Zone(const Zone&) = delete;
    Zone& operator=(const Zone&) = delete;
};

using Times = std::set<std::string>;

} // namespace

TEST_CASE("retention: the newest of each day, week, month and year that has any") {
    Zone zone("UTC");
    History history({"2023-12-31 12:00", "2024-01-01 12:00", "2024-01-31 12:00", "2024-02-28 12:00",
                     "2024-02-29 10:00", "2024-02-29 12:00", "2024-03-01 12:00", "2024-03-31 12:00"});
    auto now = "2024-03-31 13:00";
    CHECK(history.kept(keep_of("keep-last", 2), now) == Times{"2024-03-31 12:00", "2024-03-01 12:00"});
    CHECK(history.kept(keep_of("keep-hourly", 3), now) ==
          Times{"2024-03-31 12:00", "2024-03-01 12:00", "2024-02-29 12:00"});
    CHECK(history.kept(keep_of("keep-daily", 4), now) ==
          Times{"2024-03-31 12:00", "2024-03-01 12:00", "2024-02-29 12:00", "2024-02-28 12:00"});
    CHECK(history.kept(keep_of("keep-monthly", 3), now) ==
          Times{"2024-03-31 12:00", "2024-02-29 12:00", "2024-01-31 12:00"});
    CHECK(history.kept(keep_of("keep-yearly", 5), now) == Times{"2024-03-31 12:00", "2023-12-31 12:00"});
    // 2024-01-01 was a Monday, 2023-12-31 the Sunday of the week before
    CHECK(history.kept(keep_of("keep-weekly", 9), now) == Times{"2024-03-31 12:00", "2024-03-01 12:00",
                                                                "2024-01-31 12:00", "2024-01-01 12:00",
                                                                "2023-12-31 12:00"});
}

TEST_CASE("retention: the first of January may belong to the last week of the year before") {
    Zone zone("UTC");
    History history({"2020-12-31 12:00", "2021-01-01 12:00", "2021-01-04 12:00"});
    CHECK(history.kept(keep_of("keep-weekly", 5), "2021-01-05 12:00") ==
          Times{"2021-01-01 12:00", "2021-01-04 12:00"});
}

TEST_CASE("retention: days are local ones, and the hour that comes twice counts twice") {
    Zone zone("CET-1CEST,M3.5.0,M10.5.0/3");
    History history({"2026-10-24 23:30", "2026-10-25 00:30", "2026-10-25 23:30"});
    CHECK(history.kept(keep_of("keep-daily", 5), "2026-10-26 12:00") ==
          Times{"2026-10-24 23:30", "2026-10-25 23:30"});
    Keep hourly = keep_of("keep-hourly", 9);
    std::vector<Snapshot> twice(2);
    twice[0].id[0] = 1;
    twice[1].time = 1'792'884'600'000'000'000; // 2026-10-25 02:30 in summer time
    twice[0].time = twice[1].time + 3'600'000'000'000;
    CHECK(hourly.chosen({&twice[0], &twice[1]}, INT64_MAX).size() == 2);
}

TEST_CASE("retention: what is from the future stays and counts for no rule") {
    Zone zone("UTC");
    History history({"2024-01-01 12:00", "2024-01-02 12:00", "2031-01-01 12:00"});
    CHECK(history.kept(keep_of("keep-last", 1), "2024-01-03 12:00") ==
          Times{"2024-01-02 12:00", "2031-01-01 12:00"});
}

TEST_CASE("retention: rules add up, and an age keeps all that are younger") {
    Zone zone("UTC");
    History history({"2024-01-01 12:00", "2024-01-15 12:00", "2024-02-01 12:00", "2024-02-02 12:00"});
    auto keep = keep_of("keep-monthly", 2);
    keep.rules[0].number = 2;
    CHECK(history.kept(keep, "2024-02-03 12:00") ==
          Times{"2024-01-15 12:00", "2024-02-01 12:00", "2024-02-02 12:00"});
    Keep within;
    within.since = parse_time("2024-01-15");
    CHECK(history.kept(within, "2024-02-03 12:00") == Times{"2024-02-01 12:00", "2024-02-02 12:00"});
    CHECK(Keep{}.any() == false);
    CHECK(within.any());
}

TEST_CASE("times: an age beyond all time is the beginning of time") {
    for (auto* age : {"999999d", "200000d", "1000000w", "999999h"}) {
        INFO(age);
        CHECK(parse_time(age) <= now_ns() - 100 * INT64_C(365) * 86'400'000'000'000 / 10);
        CHECK(parse_time(age) >= 0);
    }
    CHECK(parse_time("9999-01-01") > now_ns());
    CHECK_THROWS_AS(parse_time("1000001d"), Usage);
}

TEST_CASE(
    "check: an index that has other chunks in a pack than the pack's own table is found, whatever is read") {
    auto one = noise(100, 1), two = noise(100, 2);
    auto found = [&](auto change) {
        TestStore store = new_repository();
        auto repo = open_repository(store);
        auto hasher = repo->keys.hasher();
        Sealer sealer(repo->keys, kPackLabel);
        sealer.add({Kind::data, 0, {{hasher(one), 100}, {hasher(two), 100}}}, frame_of(joined({one, two})));
        auto p = put_pack(*repo, sealer);
        change(p.table[0].chunks);
        write_segment(*repo, pack_added(p));
        auto again = open_repository(store);
        Captured said;
        CheckResult r;
        Sample all;
        Check(*again, 1).run(&all, true, r);
        CHECK((said.text().find("is not as the index has it") != std::string::npos) == (r.errors > 0));
        return r.errors.load();
    };
    CHECK(found([](auto&) {}) == 0);
    CHECK(found([](auto& chunks) { std::swap(chunks[0].id, chunks[1].id); }) == 1);
    CHECK(found([](auto& chunks) { chunks.pop_back(); }) == 1);
    CHECK(found([](auto& chunks) { chunks[0].length = 99; }) == 1);
    CHECK(found([](auto& chunks) { chunks[1].id[0] ^= 1; }) == 1);
    CHECK(found([](auto& chunks) { chunks.push_back(chunks[0]); }) == 1);
}
