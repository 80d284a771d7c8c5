// A TCP proxy on loopback that does what bad lines do, and counts. It stands alone: the benchmark
// uses it too.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <thread>

namespace support {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

// Forwards TCP connections to a port on loopback, and does what bad lines do.
class Proxy {
  public:
    explicit Proxy(int target_port);
    ~Proxy();
    Proxy(const Proxy&) = delete;
    Proxy& operator=(const Proxy&) = delete;

    [[nodiscard]] int port() const { return port_; }
    // All may be set at any time, before or while connections are up.
    std::atomic<std::int64_t> cut_after{-1};      // bytes upstream in all, to the byte; then comes the fault,
    std::atomic<std::int64_t> cut_after_down{-1}; // which so many bytes downstream call as well;
    std::atomic<std::int64_t> cut_every{0};       // and each time so many bytes later
    std::atomic<int> more_cuts{0};                // it comes as many times more
    enum class Fault {
        broken,   // every connection is reset
        stalled,  // nothing passes any more on those that are up: nobody is told
        half_up,  // the server is told that the client said all that it has to say
        half_down // the client, that the server did
    };
    std::atomic<Fault> fault{Fault::broken};
    std::atomic<bool> dead_after_cut{false}; // no new connection is let through
    std::atomic<bool> stalled{false};        // as long as it is set nothing passes on any connection
    std::atomic<bool> away{false}; // as long as it is set all connections are broken and the port is closed
    std::atomic<int> idle_ms{0};   // a connection on which nothing passes for so long breaks; 0: never
    std::atomic<int> at_once{0};   // no more than so many bytes are passed on in one piece; 0: no limit
    std::atomic<int> delay_ms{0};  // each way
    std::atomic<std::int64_t> upstream_rate{0}; // bytes a second over all connections; 0: no limit
    std::atomic<std::int64_t> downstream_rate{0};
    std::atomic<int> most_connections{1000}; // one more is closed at once
    // Counters
    std::atomic<std::int64_t> upstream{0}, downstream{0};
    std::atomic<int> accepted{0}, refused{0}, open{0}, cuts{0};
    // The length of the longest chain of round trips so far, of which each may have waited for the
    // one before, on whatever connection: what the client sends is one deeper than the deepest that
    // it was sent until then, and what the server answers is as deep as the deepest that reached it
    // on that connection. It means something with a delay: then a link takes no less than a round
    // trip's time, so that requests sent together, or one after the other without waiting, are one
    // link and a transfer through a full pipeline one for each round trip's time that it takes. The
    // setting up of TCP connections is not seen. May be set to 0 while none is open.
    std::atomic<int> round_trips{0};

  private:
    void loop();
    int target_, port_ = 0;
    int place_ = -1; // keeps the port for us while nobody listens
    int listener_ = -1;
    std::atomic<bool> stopping_{false};
    std::thread thread_;
};

// A port of 127.0.0.1 on which nobody listens.
[[nodiscard]] int free_port();

} // namespace support
