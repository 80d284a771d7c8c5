// The proxy of proxy.hpp: one thread, one poll loop, every connection two flows.
#include "proxy.hpp"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <deque>
#include <list>
#include <stdexcept>
#include <string>
#include <vector>

namespace support {

namespace {

sockaddr_in loopback(int port) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<std::uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return address;
}

// A socket on this port, or, if it is 0, on one that was free, which it is set to.
int bound_to_loopback(int& port) {
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in address = loopback(port);
    socklen_t size = sizeof address;
    const int yes = 1; // beside the one that keeps the place, and connections that are not forgotten yet
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (fd < 0 || bind(fd, reinterpret_cast<sockaddr*>(&address), size) != 0 ||
        getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size) != 0)
        throw std::runtime_error(std::string("test harness: a port of 127.0.0.1: ") + std::strerror(errno));
    port = ntohs(address.sin_port);
    return fd;
}

int listen_on_loopback(int& port) {
    const int fd = bound_to_loopback(port);
    if (listen(fd, 64) != 0)
        throw std::runtime_error(std::string("test harness: listen on 127.0.0.1: ") + std::strerror(errno));
    return fd;
}

int connect_to_loopback(int port) {
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const sockaddr_in address = loopback(port);
    if (connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0) return fd;
    close(fd);
    return -1;
}

} // namespace

int free_port() {
    int port = 0;
    close(listen_on_loopback(port));
    return port;
}

namespace {

struct Packet {
    std::string bytes;
    std::size_t sent = 0;
    Clock::time_point due;
    int depth; // how many round trips lead to it: see Proxy::round_trips
};

// Bytes that go straight on pass through a pipe in the kernel and are never copied here, so that
// the proxy takes little time from the programs that the benchmark measures beside it.
class Pipe {
  public:
    Pipe() {
        if (pipe2(ends_, O_NONBLOCK | O_CLOEXEC) != 0)
            throw std::runtime_error(std::string("test harness: pipe: ") + std::strerror(errno));
        fcntl(ends_[1], F_SETPIPE_SZ, int{most}); // the default will do as well
    }
    ~Pipe() {
        close(ends_[0]);
        close(ends_[1]);
    }
    Pipe(const Pipe&) = delete;
    Pipe& operator=(const Pipe&) = delete;

    [[nodiscard]] bool empty() const { return held_ == 0; }
    ssize_t fill(int from) {
        return moved(splice(from, nullptr, ends_[1], nullptr, most, SPLICE_F_NONBLOCK), 1);
    }
    ssize_t drain(int to) {
        return moved(splice(ends_[0], nullptr, to, nullptr, held_, SPLICE_F_NONBLOCK), -1);
    }

  private:
    static constexpr std::size_t most = 1 << 20;
    ssize_t moved(ssize_t n, ssize_t sign) {
        if (n > 0) held_ += static_cast<std::size_t>(n * sign);
        return n;
    }
    int ends_[2];
    std::size_t held_ = 0;
};

// One direction of one connection.
struct Flow {
    Flow(int from_fd, int to_fd) : from(from_fd), to(to_fd) {}
    int from, to;
    Pipe straight; // empty, or older than all that is waiting
    std::deque<Packet> waiting;
    std::size_t queued = 0;                  // bytes waiting
    bool blocked = false;                    // the receiver takes no more at present
    bool rest = false;                       // there is more to pass on at once, but not in the same piece
    Clock::time_point passed = Clock::now(); // when something last came in
    bool ended = false;                      // nothing more will be read
    bool finished = false;                   // and the end has been passed on
};

struct Line {
    Line(int client, int server) : up(client, server), down(server, client) {}
    Flow up, down;
    int depth = 0; // the largest that reached the server
    bool broken = false;
    bool stalled = false; // for ever
    bool still = false;   // at present
};

// Bytes a second over all connections: what may pass now grows with time, up to a tenth of a
// second.
class Tap {
  public:
    std::size_t allowance(std::int64_t rate) {
        if (rate <= 0) return 1 << 20;
        const auto now = Clock::now();
        const double seconds = std::chrono::duration<double>(now - last_).count();
        last_ = now;
        budget_ = std::min(budget_ + seconds * static_cast<double>(rate), static_cast<double>(rate) / 10);
        return budget_ < 1 ? 0 : static_cast<std::size_t>(budget_);
    }
    void take(std::size_t bytes) { budget_ -= static_cast<double>(bytes); }

  private:
    Clock::time_point last_ = Clock::now();
    double budget_ = 0;
};

constexpr std::size_t most_queued = 8 << 20; // what a long fat line holds

bool only_later() { return errno == EAGAIN || errno == EINTR; }

// Reads what may go on at once. False: the line is broken.
bool take_straight(Flow& flow, std::atomic<std::int64_t>& counter) {
    if (!flow.straight.empty()) return true;
    const ssize_t n = flow.straight.fill(flow.from);
    if (n < 0) return only_later();
    if (n == 0) flow.ended = true;
    if (n > 0) flow.passed = Clock::now();
    counter += n;
    return true;
}

// Reads what is there and stamps it with the time at which it may go on, at most up to where the line
// is to be cut. False: the line is broken.
bool take_in(Flow& flow, int depth, Tap& tap, std::int64_t rate, int delay_ms, std::int64_t cut,
             std::atomic<std::int64_t>& counter) {
    char buffer[65536];
    std::size_t room = std::min({sizeof buffer, tap.allowance(rate), most_queued - flow.queued});
    if (cut >= 0) room = std::min(room, static_cast<std::size_t>(std::max<std::int64_t>(cut - counter, 0)));
    if (room == 0) return true;
    const ssize_t n = recv(flow.from, buffer, room, 0);
    if (n < 0) return only_later();
    if (n == 0) {
        flow.ended = true;
        return true;
    }
    const auto size = static_cast<std::size_t>(n);
    tap.take(size);
    flow.passed = Clock::now();
    counter += n;
    flow.queued += size;
    flow.waiting.push_back({std::string(buffer, size), 0, Clock::now() + milliseconds(delay_ms), depth});
    return true;
}

// Whether a write failed for good; a receiver that is full is looked at again when it is not.
bool broken(Flow& flow, ssize_t written) {
    flow.blocked = written < 0 && only_later();
    return written < 0 && !flow.blocked;
}

// Delivers what is due, and raises `deepest` to the largest depth of it. False: the line is broken.
template <class Depth> bool pass_on(Flow& flow, Depth& deepest, std::size_t at_once) {
    flow.blocked = flow.rest = false;
    while (!flow.straight.empty() && !flow.blocked)
        if (broken(flow, flow.straight.drain(flow.to))) return false;
    while (!flow.blocked && !flow.waiting.empty() && flow.waiting.front().due <= Clock::now()) {
        Packet& packet = flow.waiting.front();
        if (packet.depth > deepest) deepest = packet.depth; // before anybody can notice
        const std::size_t size = std::min(packet.bytes.size() - packet.sent, at_once);
        const ssize_t n = send(flow.to, packet.bytes.data() + packet.sent, size, MSG_NOSIGNAL);
        if (broken(flow, n)) return false;
        if (n < 0) break;
        packet.sent += static_cast<std::size_t>(n);
        flow.queued -= static_cast<std::size_t>(n);
        if (packet.sent == packet.bytes.size()) flow.waiting.pop_front();
        if (size == at_once) { // the next piece follows when the kernel had time to send this one
            flow.rest = true;
            return true;
        }
    }
    if (flow.ended && flow.straight.empty() && flow.waiting.empty() && !flow.finished) {
        shutdown(flow.to, SHUT_WR);
        flow.finished = true;
    }
    return true;
}

// Ends a connection as a line that breaks does: no orderly goodbye.
void break_off(int fd) {
    const linger now{1, 0};
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
    close(fd);
}

void break_line(const Line& line) {
    break_off(line.up.from);
    break_off(line.up.to);
}

// When to look again although nothing arrives: the next packet that is due, or a tap's next drop.
int patience(const std::list<Line>& lines, bool limited) {
    int wait = limited ? 5 : 50;
    for (const Line& line : lines)
        for (const Flow* flow : {&line.up, &line.down})
            if (flow->rest) {
                return 0;
            } else if (!flow->waiting.empty() && !flow->blocked && !line.still) {
                const auto left =
                    std::chrono::duration_cast<milliseconds>(flow->waiting.front().due - Clock::now())
                        .count();
                wait = std::clamp(static_cast<int>(left), 1, wait);
            }
    return wait;
}

} // namespace

Proxy::Proxy(int target_port) : target_(target_port) {
    place_ = bound_to_loopback(port_);
    listener_ = listen_on_loopback(port_);
    thread_ = std::thread([this] { loop(); });
}

Proxy::~Proxy() {
    stopping_ = true;
    thread_.join();
    if (listener_ >= 0) close(listener_);
    close(place_);
}

void Proxy::loop() {
    sigset_t broken_pipe; // splice() knows no MSG_NOSIGNAL
    sigemptyset(&broken_pipe);
    sigaddset(&broken_pipe, SIGPIPE);
    pthread_sigmask(SIG_BLOCK, &broken_pipe, nullptr);
    std::list<Line> lines;
    Tap up_tap, down_tap;
    bool dead = false;
    const auto accept_one = [&] {
        const int client = accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (client < 0) return;
        ++accepted;
        const bool full = static_cast<int>(lines.size()) >= most_connections;
        const int server = dead || full ? -1 : connect_to_loopback(target_);
        if (server < 0) {
            ++refused;
            close(client);
            return;
        }
        fcntl(server, F_SETFL, O_NONBLOCK);
        const int yes = 1;
        setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
        setsockopt(server, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
        lines.emplace_back(client, server);
    };
    // With a cut to come nothing is taken beyond it.
    const auto take = [&](Flow& flow, int depth, Tap& tap, std::int64_t rate, std::int64_t cut,
                          std::atomic<std::int64_t>& counter) {
        if (flow.ended) return true;
        const bool plain = delay_ms == 0 && rate <= 0 && cut < 0 && at_once == 0 && flow.waiting.empty();
        return plain ? take_straight(flow, counter) : take_in(flow, depth, tap, rate, delay_ms, cut, counter);
    };
    const auto break_all = [&] {
        for (const Line& line : lines) break_line(line);
        lines.clear();
    };
    const auto strike = [&] {
        const bool up = cut_after >= 0 && upstream >= cut_after, again = cut_every > 0 && more_cuts > 0;
        if (again) --more_cuts;
        cut_after = again && up ? upstream + cut_every : -1;
        cut_after_down = again && !up ? downstream + cut_every : -1;
        dead = dead_after_cut;
        ++cuts; // before anybody can notice
        if (fault == Fault::broken) break_all();
        for (Line& line : lines) {
            if (fault == Fault::stalled) line.stalled = true;
            if (fault == Fault::half_up) line.up.ended = true;
            if (fault == Fault::half_down) line.down.ended = true;
        }
    };
    while (!stopping_) {
        if (away != (listener_ < 0)) {
            if (listener_ >= 0) close(listener_);
            listener_ = listener_ >= 0 ? -1 : listen_on_loopback(port_);
        }
        if (listener_ < 0) break_all();
        const bool all_stalled = stalled;
        for (Line& line : lines) line.still = line.stalled || all_stalled;
        std::vector<pollfd> polled{{listener_, POLLIN, 0}};
        for (const Line& line : lines)
            for (const Flow* flow : {&line.up, &line.down}) {
                const bool wants = !flow->ended && flow->straight.empty() && flow->queued < most_queued;
                const bool limited = (flow == &line.up ? upstream_rate : downstream_rate) > 0;
                polled.push_back({wants && !limited && !line.still ? flow->from : -1, POLLIN, 0});
                // Of a line that is still, only that the client has left is of interest.
                const bool watched = line.still ? flow == &line.down : flow->blocked;
                polled.push_back(
                    {watched ? flow->to : -1, line.still ? short{POLLRDHUP} : short{POLLOUT}, 0});
            }
        poll(polled.data(), polled.size(), patience(lines, upstream_rate > 0 || downstream_rate > 0));
        // Everything is taken in before anything is delivered: what the client sent so far did not
        // wait for what it is about to get.
        std::size_t at = 0;
        for (Line& line : lines) {
            at += 4; // its last place among those polled
            line.broken =
                line.still
                    ? (polled[at].revents & (POLLRDHUP | POLLHUP | POLLERR)) != 0
                    : !take(line.up, round_trips + 1, up_tap, upstream_rate, cut_after, upstream) ||
                          !take(line.down, line.depth, down_tap, downstream_rate, cut_after_down, downstream);
            const auto quiet = Clock::now() - std::max(line.up.passed, line.down.passed);
            if (idle_ms > 0 && quiet > milliseconds(idle_ms)) line.broken = true;
        }
        for (auto line = lines.begin(); line != lines.end();) {
            const std::size_t piece = at_once > 0 ? static_cast<std::size_t>(at_once) : most_queued;
            const bool alive = !line->broken && (line->still || (pass_on(line->up, line->depth, piece) &&
                                                                 pass_on(line->down, round_trips, piece)));
            if (alive && !(line->up.finished && line->down.finished)) {
                ++line;
                continue;
            }
            if (alive) {
                close(line->up.from);
                close(line->up.to);
            } else {
                break_line(*line);
            }
            line = lines.erase(line);
        }
        if ((cut_after >= 0 && upstream >= cut_after) ||
            (cut_after_down >= 0 && downstream >= cut_after_down))
            strike();
        if ((polled[0].revents & POLLIN) != 0 && listener_ >= 0) accept_one();
        open = static_cast<int>(lines.size());
    }
    break_all();
}

} // namespace support
