/* hls::stream with bounded FIFOs, for finding deadlocks and the depths that prevent them.
 *
 * Stands in for the vendor's header of this name. Every process of a dataflow region runs as a fiber; one that finds its
 * FIFO empty or full lets others run. Of those that can run the one furthest downstream does, so a word is made when it is
 * asked for, and a FIFO never holds more than some order of events forces it to. Nothing depends on time: the same
 * program does the same in every run.
 *
 * As in hardware that decides at issue, an iteration asks with need() and reserve() for all that it will read and write
 * before it begins; what is reserved counts as held.
 */
#ifndef TENSORC_HLS_STREAM_H
#define TENSORC_HLS_STREAM_H

#include <ucontext.h>

#include <algorithm>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace hls {

/* What `depth` is for a FIFO that is never full. */
const std::size_t endless = static_cast<std::size_t>(-1);

class fifo {
public:
    fifo(const std::string &name, std::size_t depth) : name(name), depth(depth) {}
    virtual ~fifo() {}
    fifo(const fifo &) = delete;
    fifo &operator=(const fifo &) = delete;

    virtual std::size_t size() const = 0;
    bool empty() const { return size() == 0; }
    bool full() const { return size() + reserved >= depth; }

    const std::string name;
    const std::size_t depth;
    std::size_t reserved = 0;
    std::size_t largest = 0;

    void need();    /* returns when there is a word */
    void reserve(); /* returns when there is room for a word, which is kept */
};

struct process {
    std::string name;
    std::function<void()> body;
    ucontext_t context;
    std::unique_ptr<char[]> stack;
    const fifo *waits = nullptr;
    bool for_room = false;
    bool done = false;

    bool ready() const { return !done && (!waits || (for_room ? !waits->full() : !waits->empty())); }
};

class fibers {
public:
    static fibers &all() {
        static fibers one;
        return one;
    }

    /* Processes are added from those that get the inputs to those that give the outputs. */
    void add(const std::string &name, const std::function<void()> &body) {
        processes.emplace_back(new process);
        processes.back()->name = name;
        processes.back()->body = body;
    }

    /* Whether all came to their end. */
    bool run() {
        for (auto &one : processes) {
            const std::size_t bytes = std::size_t(1) << 20;
            one->stack.reset(new char[bytes]);
            getcontext(&one->context);
            one->context.uc_stack.ss_sp = one->stack.get();
            one->context.uc_stack.ss_size = bytes;
            one->context.uc_link = &scheduler;
            makecontext(&one->context, enter, 0);
        }
        while (process *next = chosen()) {
            current = next;
            next->waits = nullptr;
            swapcontext(&scheduler, &next->context);
        }
        current = nullptr;
        return std::all_of(processes.begin(), processes.end(), [](const std::unique_ptr<process> &one) { return one->done; });
    }

    /* One line for each process that waits: its name, what for, the channel. */
    void report(std::FILE *file) const {
        for (const auto &one : processes) {
            if (!one->done && one->waits) {
                std::fprintf(file, "deadlock %s %s %s\n", one->name.c_str(), one->for_room ? "full" : "empty",
                             one->waits->name.c_str());
            }
        }
    }

    void wait(const fifo &channel, bool for_room) {
        if (!current) {
            std::fprintf(stderr, "%s is %s outside of all processes\n", channel.name.c_str(), for_room ? "full" : "empty");
            std::exit(4);
        }
        current->waits = &channel;
        current->for_room = for_room;
        yield();
    }

    /* A word came: who waits for it runs now if it is further downstream. */
    void wrote(const fifo &channel) {
        for (std::size_t i = processes.size(); current && i-- > 0 && processes[i].get() != current;) {
            if (!processes[i]->done && processes[i]->waits == &channel && !processes[i]->for_room) return yield();
        }
    }

private:
    void yield() {
        process *self = current;
        swapcontext(&self->context, &scheduler);
    }

    process *chosen() const {
        for (std::size_t i = processes.size(); i-- > 0;) {
            if (processes[i]->ready()) return processes[i].get();
        }
        return nullptr;
    }

    static void enter() {
        process *self = all().current;
        self->body();
        self->done = true;
    }

    std::vector<std::unique_ptr<process> > processes;
    process *current = nullptr;
    ucontext_t scheduler;
};

inline void fifo::need() {
    while (empty()) fibers::all().wait(*this, false);
}

inline void fifo::reserve() {
    while (full()) fibers::all().wait(*this, true);
    reserved++;
    largest = std::max(largest, size() + reserved);
}

template <class T> class stream : public fifo {
public:
    /* A FIFO that is not declared with a depth holds two words, as the vendor's does. */
    explicit stream(const std::string &name = "a stream", std::size_t depth = 2) : fifo(name, depth) {}

    std::size_t size() const override { return words.size(); }

    T read() {
        need();
        const T word = words.front();
        words.pop_front();
        return word;
    }

    void read(T &word) { word = read(); }

    void write(const T &word) {
        if (!reserved) reserve();
        reserved--;
        words.push_back(word);
        fibers::all().wrote(*this);
    }

private:
    std::deque<T> words;
};

} // namespace hls

#endif
