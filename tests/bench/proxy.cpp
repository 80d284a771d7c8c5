// The proxy of the tests as a program, for the benchmark: it adds delay, caps rates and counts.
//
//     nfreeze_bench_proxy TARGET_PORT
//
// prints the port on 127.0.0.1 where it listens, then answers one line for each line it reads:
//
//     delay MS      each way: half of a round trip
//     rate UP DOWN  bytes a second over all connections; 0: no limit
//     reset         sets the counters to zero
//     counts        UP DOWN CONNECTIONS OPEN: bytes, connections since reset, connections now
//
// The end of its input ends it.
#include "../proxy.hpp"

#include <csignal>
#include <cstdlib>
#include <iostream>
#include <sstream>
#include <string>

namespace {

std::string answer(support::Proxy& proxy, const std::string& line) {
    std::istringstream words(line);
    std::string command;
    std::int64_t first = 0, second = 0;
    words >> command;
    if (command == "delay" && words >> first) {
        proxy.delay_ms = static_cast<int>(first);
    } else if (command == "rate" && words >> first >> second) {
        proxy.upstream_rate = first;
        proxy.downstream_rate = second;
    } else if (command == "reset") {
        proxy.upstream = proxy.downstream = proxy.accepted = 0;
    } else if (command == "counts") {
        std::ostringstream counts;
        counts << proxy.upstream << ' ' << proxy.downstream << ' ' << proxy.accepted << ' ' << proxy.open;
        return counts.str();
    } else {
        return "unknown: " + line;
    }
    return "ok";
}

} // namespace

int main(int argc, char** argv) {
    const int target = argc == 2 ? std::atoi(argv[1]) : 0;
    if (target <= 0 || target > 65535) {
        std::cerr << "usage: nfreeze_bench_proxy TARGET_PORT\n";
        return 2;
    }
    std::signal(SIGINT, SIG_IGN); // the script that started it ends it
    support::Proxy proxy(target);
    std::cout << proxy.port() << std::endl;
    for (std::string line; std::getline(std::cin, line);) std::cout << answer(proxy, line) << std::endl;
}
