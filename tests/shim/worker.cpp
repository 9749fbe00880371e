// The process that runs kernels on the CPU: fibers, barriers, warp operations, and the protocol with the launcher.
//
// It is compiled without sanitizers, whatever the kernels are compiled with, and linked to them. This makes it fast,
// and the sanitizers do not check what it does itself. Under SHIM_ASAN and SHIM_TSAN it tells them what they must know.
#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <numeric>
#include <string>
#include <vector>

#include "cuda.h"

#ifdef __ELF__
#include <elf.h>
#include <link.h>
#endif

#if !defined(__x86_64__) && !defined(__aarch64__)
#include <ucontext.h>
#define SHIM_UCONTEXT
#endif

using shim::Kernel;
using shim::Operation;
using shim::Parameter;
using shim::Site;

extern "C" {
#ifdef SHIM_ASAN
void __sanitizer_start_switch_fiber(void** save, const void* bottom, size_t size);
void __sanitizer_finish_switch_fiber(void* save, const void** bottom, size_t* size);
int __asan_report_present();
void* __asan_get_report_address();
#endif
#ifdef SHIM_TSAN
void* __tsan_get_current_fiber();
void* __tsan_create_fiber(unsigned flags);
void __tsan_switch_to_fiber(void* fiber, unsigned flags);
void __tsan_set_fiber_name(void* fiber, const char* name);
void __tsan_acquire(void* address);
void __tsan_release(void* address);
void __tsan_java_alloc(uintptr_t begin, uintptr_t size);
void __tsan_java_free(uintptr_t begin, uintptr_t size);
#endif
}

namespace {

constexpr unsigned WARP = 32, MOST_THREADS = 1024;
constexpr size_t STACK = 256 << 10, PAGE = 64 << 10;  // PAGE: no system has larger pages
constexpr unsigned TIME_LIMIT = 300;                  // seconds per launch
constexpr unsigned char GARBAGE = 0xa5;

// ---- what runs

struct Warp;

struct Thread {
    unsigned index = 0, lane = 0, bit = 0, rank_bit = 0;
    Warp* warp = nullptr;
    uint64_t value = 0, result = 0;
    unsigned parameter = 0;

    void* stack = nullptr;  // its lowest address
    size_t stack_size = STACK;
    void* sanitizer = nullptr;  // ASan's fake stack or TSan's fiber
#ifdef SHIM_UCONTEXT
    ucontext_t context;
#else
    void* stack_pointer = nullptr;
#endif
};

// A warp operation that has begun: some lanes of its mask wait in it, and the others have yet to arrive.
struct Group {
    Operation operation;
    unsigned mask, arrived;
    Site site;
    unsigned number;  // how many groups this place has had before
};

struct Warp {
    unsigned exists, exited, at_barrier;
    unsigned ready;  // by rank, not by lane
    unsigned begun;  // which of the groups have begun
    Thread* lanes[WARP];
    Thread* ranks[WARP];
    Group groups[WARP];  // by the lane that came first; it waits, so it cannot begin another
};

struct Buffer {
    unsigned char* begin = nullptr;
    size_t size = 0;
    std::vector<unsigned char> copy;  // of a buffer that the kernel must not change
};

Kernel* kernels = nullptr;

Kernel* kernel = nullptr;  // this and the next four describe the current launch
std::vector<Buffer> buffers;
std::vector<void*> values;
size_t shared_size = 0;
bool running = false;

Thread launcher;  // the context that threads are started from
Thread* current = &launcher;
std::vector<Thread> pool[2];  // used in turn under TSan: unlike those of one fiber, threads of two blocks have no order

unsigned size;  // this and what follows describe the running block
Thread* threads;
Warp warps[MOST_THREADS / WARP];
Warp* warp_ranks[MOST_THREADS / WARP];
Warp* now;             // the running warp
unsigned ready_warps;  // by rank
unsigned waiting, exited, count, result, phase;
shim::Barrier barrier_kind;
Site barrier_site;

// ---- errors: they end the process, and what it wrote to stderr is the message

const char* OPERATIONS[] = {
    "__syncwarp",        "__shfl_sync",       "__shfl_xor_sync",   "__shfl_up_sync",    "__shfl_down_sync",
    "__ballot_sync",     "__any_sync",        "__all_sync",        "__reduce_add_sync", "__reduce_max_sync",
    "__reduce_min_sync", "__reduce_max_sync", "__reduce_min_sync",
};
const char* BARRIERS[] = {"__syncthreads", "__syncthreads_count", "__syncthreads_and", "__syncthreads_or"};

std::string format(const char* text, ...) {
    char buffer[1000];
    va_list arguments;
    va_start(arguments, text);
    vsnprintf(buffer, sizeof buffer, text, arguments);
    va_end(arguments);
    return buffer;
}

std::string place(Site site) {
    const char* slash = strrchr(site.file, '/');
    return format("%s:%d", slash ? slash + 1 : site.file, site.line);
}

// Names the threads for which it is true, as in "threads 0-31, 40".
template <typename F>
std::string those(F is_true) {
    std::string list;
    unsigned found = 0;
    for (unsigned i = 0; i < size; i++) {
        if (!is_true(threads[i])) continue;
        unsigned first = i;
        while (i + 1 < size && is_true(threads[i + 1])) i++;
        found += i - first + 1;
        list += format(i > first ? "%s%u-%u" : "%s%u", list.empty() ? "" : ", ", first, i);
    }
    return (found == 1 ? "thread " : "threads ") + list;
}

std::string where() {
    if (!kernel) return "the worker";
    std::string text = format("kernel %s", kernel->name);
    if (running) text += format(", block %u", shim::block_index.x);
    if (running && current != &launcher) text += format(", thread %u", current->index);
    return text;
}

[[noreturn]] void fail(const std::string& text) {
    fprintf(stderr, "%s: %s\n", where().c_str(), text.c_str());
    _exit(3);
}

// The name of a parameter, from "x,y,count".
std::string parameter_name(int index) {
    const char* text = kernel->parameters_text;
    while (index-- && text) text = strchr(text, ',') ? strchr(text, ',') + 1 : nullptr;
    return text ? std::string(text, strcspn(text, ",")) : "?";
}

// Describes an address in terms of the launch, by the buffer that it is in or next to.
std::string explain_address(const unsigned char* address) {
    size_t least = 4096;  // farther away, a buffer has nothing to do with it
    std::string text;
    auto try_buffer = [&](const unsigned char* begin, size_t size, const std::string& what) {
        size_t before = address < begin ? begin - address : 0;
        size_t after = address >= begin + size ? address - begin - size + 1 : 0;
        if (!begin || before + after >= least) return;
        least = before + after;
        text = before  ? format(": the address is %zu bytes before the beginning of ", before)
               : after ? format(": the address is %zu bytes after the end of ", after - 1)
                       : format(": the address is byte %zd of ", address - begin);
        text += what + format(", of %zu bytes", size);
    };
    for (size_t i = 0; i < buffers.size(); i++)
        try_buffer(buffers[i].begin, buffers[i].size, format("argument %zu (%s)", i, parameter_name(i).c_str()));
    try_buffer(shim::dynamic_shared, shared_size, "the dynamic shared memory");
    return text;
}

// Handles signals that end the process; sanitizers abort after their report.
void on_signal(int signal) {
    std::string text = where();
    if (signal == SIGALRM)
        text += format(" still runs after %u seconds: does it wait for another thread in a loop?", TIME_LIMIT);
    else if (signal != SIGABRT)
        text += format(": %s", strsignal(signal));
#ifdef SHIM_ASAN
    if (__asan_report_present()) text += explain_address(static_cast<unsigned char*>(__asan_get_report_address()));
#endif
    text += "\n";
    [[maybe_unused]] ssize_t written = write(2, text.data(), text.size());
    _exit(3);
}

void prepare_signals() {
#ifndef SHIM_TSAN  // TSan delays signals until the kernel calls a function that it intercepts
    std::vector<int> signals{SIGABRT, SIGALRM};
#ifndef SHIM_ASAN  // ASan reports these itself
    signals.insert(signals.end(), {SIGSEGV, SIGBUS, SIGFPE, SIGILL});
    static char stack[64 << 10];  // for when a fiber's own stack has overflowed
    stack_t alternative{};
    alternative.ss_sp = stack;
    alternative.ss_size = sizeof stack;
    sigaltstack(&alternative, nullptr);
#endif
    struct sigaction action {};
    action.sa_handler = on_signal;
    action.sa_flags = SA_ONSTACK;
    for (int signal : signals) sigaction(signal, &action, nullptr);
#endif
}

// ---- sanitizers

void acquire([[maybe_unused]] void* token) {
#ifdef SHIM_TSAN
    __tsan_acquire(token);
#endif
}

void release([[maybe_unused]] void* token) {
#ifdef SHIM_TSAN
    __tsan_release(token);
#endif
}

// The tokens that order the threads of a block: two for its barrier, and two for each lane of each warp. They are new
// for every block and freed only after the launch, because a token keeps everything that it has ordered.
uint64_t* tokens;
uint64_t start_token, end_token, fence_token;

// ---- fibers

extern "C" void shim_fiber();

#ifdef SHIM_UCONTEXT

void prepare(Thread& thread) {
    getcontext(&thread.context);
    thread.context.uc_stack.ss_sp = thread.stack;
    thread.context.uc_stack.ss_size = STACK;
    thread.context.uc_link = nullptr;
    makecontext(&thread.context, shim_fiber, 0);
}
inline void change(Thread* from, Thread* to) { swapcontext(&from->context, &to->context); }

#else

// Saves the registers that a function must preserve on the stack, switches stacks, and returns on the other one.
extern "C" void shim_change(void** save, void* stack) __asm__("shim_change");
#ifdef __x86_64__
constexpr size_t FRAME = 8, RETURN = 6;  // in words: the frame's size, and where it holds the return address
__asm__(R"(
    .text
    .globl shim_change
shim_change:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
)");
#else
constexpr size_t FRAME = 20, RETURN = 11;
__asm__(R"(
    .text
    .globl shim_change
    .p2align 2
shim_change:
    sub sp, sp, #160
    stp x19, x20, [sp]
    stp x21, x22, [sp, #16]
    stp x23, x24, [sp, #32]
    stp x25, x26, [sp, #48]
    stp x27, x28, [sp, #64]
    stp x29, x30, [sp, #80]
    stp d8, d9, [sp, #96]
    stp d10, d11, [sp, #112]
    stp d12, d13, [sp, #128]
    stp d14, d15, [sp, #144]
    mov x9, sp
    str x9, [x0]
    mov sp, x1
    ldp x19, x20, [sp]
    ldp x21, x22, [sp, #16]
    ldp x23, x24, [sp, #32]
    ldp x25, x26, [sp, #48]
    ldp x27, x28, [sp, #64]
    ldp x29, x30, [sp, #80]
    ldp d8, d9, [sp, #96]
    ldp d10, d11, [sp, #112]
    ldp d12, d13, [sp, #128]
    ldp d14, d15, [sp, #144]
    add sp, sp, #160
    ret
)");
#endif

// Sets up the stack as if the thread had been left at its very beginning. The zeros end a debugger's walk up the stack.
void prepare(Thread& thread) {
    void** end = reinterpret_cast<void**>(static_cast<char*>(thread.stack) + STACK);
    std::fill(end - FRAME, end, nullptr);
    end[RETURN - FRAME] = reinterpret_cast<void*>(shim_fiber);
    thread.stack_pointer = end - FRAME;
}
inline void change(Thread* from, Thread* to) { shim_change(&from->stack_pointer, to->stack_pointer); }

#endif

void arrived([[maybe_unused]] Thread* thread) {
#ifdef SHIM_ASAN
    const void* bottom;
    size_t size;
    __sanitizer_finish_switch_fiber(thread->sanitizer, &bottom, &size);
    if (!launcher.stack) launcher.stack = const_cast<void*>(bottom), launcher.stack_size = size;
#endif
}

inline void resume(Thread* next) {
    Thread* self = current;
    if (next == self) return;
    current = next;
    shim::thread_index.x = next->index;
#ifdef SHIM_ASAN
    __sanitizer_start_switch_fiber(&self->sanitizer, next->stack, next->stack_size);
#endif
#ifdef SHIM_TSAN
    __tsan_switch_to_fiber(next->sanitizer, 1);  // 1: without ordering memory
#endif
    change(self, next);
    arrived(self);
}

// ---- the order of threads

[[noreturn]] void deadlock();

// Switches to the next thread that is ready, from this warp if it has one.
void yield() {
    while (!now->ready) {
        ready_warps &= ready_warps - 1;  // the running warp is the lowest
        if (!ready_warps) {
            if (exited == size) return resume(&launcher);
            deadlock();
        }
        now = warp_ranks[__builtin_ctz(ready_warps)];
    }
    Thread* next = now->ranks[__builtin_ctz(now->ready)];
    now->ready &= now->ready - 1;
    resume(next);
}

void ready_all() {
    unsigned number = (size + WARP - 1) / WARP;
    for (unsigned i = 0; i < number; i++) warps[i].ready = warps[i].exists, warps[i].at_barrier = 0;
    ready_warps = number == 32 ? ~0u : (1u << number) - 1;
    now = warp_ranks[0];
}

uint64_t random_state;

uint64_t random_number() {  // SplitMix64
    uint64_t x = random_state += 0x9e3779b97f4a7c15;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
    x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
    return x ^ (x >> 31);
}

template <typename T>
void arrange(T* items, size_t number, long order) {
    if (order == 1) std::reverse(items, items + number);
    if (order > 1)
        for (size_t i = number; i > 1; i--) std::swap(items[i - 1], items[random_number() % i]);
}

// ---- barriers and warp operations

bool same(Site a, Site b) { return a.line == b.line && (a.file == b.file || !strcmp(a.file, b.file)); }

std::string described(const Group& group) {
    return format("%s with mask 0x%08x at %s", OPERATIONS[group.operation], group.mask, place(group.site).c_str());
}

std::string described(shim::Barrier kind, Site site) {
    return format("%s at %s", BARRIERS[kind], place(site).c_str());
}

// Says which threads wait at the barrier for a thread that does not come to it.
std::string awaited() {
    return "awaited by " + those([](Thread& t) { return t.warp->at_barrier & t.bit; }) + " in " +
           described(barrier_kind, barrier_site);
}

std::string waiting_in(const Warp& warp, const Group& group) {
    return those([&](Thread& t) { return t.warp == &warp && t.bit & group.arrived; }) + " in " + described(group);
}

// Reports that the calling thread does something that leaves others waiting for it in a warp operation for ever.
[[noreturn]] void missed(const std::string& does, const Warp& warp, const Group& group) {
    fail("inactive lane: this thread " + does + ", awaited by " + waiting_in(warp, group));
}

template <typename F>
void each_group(Warp& warp, F function) {
    for (unsigned rest = warp.begun; rest; rest &= rest - 1) function(warp.groups[__builtin_ctz(rest)]);
}

// Reports that threads wait for one another in a circle, in warp operations with different masks.
[[noreturn]] void deadlock() {
    std::string text;
    for (unsigned i = 0; i < (size + WARP - 1) / WARP; i++)
        each_group(warps[i], [&](Group& group) { text += (text.empty() ? "" : "; ") + waiting_in(warps[i], group); });
    fail("deadlock: " + text);
}

// Checks that no lane waits for the calling thread in a warp operation, because this thread will not come to one before
// the others have exited or come to a barrier.
void leave(const Thread& self, const std::string& does) {
    each_group(*self.warp, [&](Group& group) {
        if (group.mask & self.bit) missed(does, *self.warp, group);
    });
}

void complete(Warp& warp, Group& group) {
    const unsigned mask = group.mask;
    auto each = [&](auto function) {
        for (unsigned rest = mask; rest; rest &= rest - 1) function(*warp.lanes[__builtin_ctz(rest)]);
    };
    auto all = [&](uint64_t result, auto function) {
        each([&](Thread& thread) { result = function(result, thread); });
        each([&](Thread& thread) { thread.result = result; });
    };
    auto shuffle = [&](auto source) {
        each([&](Thread& thread) {
            unsigned lane = source(thread);
            if (!(mask >> lane & 1)) {
                current = &thread;
                fail(format("inactive lane: lane %u reads lane %u in %s, which does not name that", thread.lane, lane,
                            described(group).c_str()));
            }
            thread.result = warp.lanes[lane]->value;
        });
    };
    using u32 = uint32_t;
    using i32 = int32_t;
    switch (group.operation) {
        case shim::SYNC: break;
        case shim::SHUFFLE: shuffle([](Thread& t) { return t.parameter % WARP; }); break;
        case shim::SHUFFLE_XOR: shuffle([](Thread& t) { return t.lane ^ t.parameter % WARP; }); break;
        case shim::SHUFFLE_UP:
            shuffle([](Thread& t) { return t.parameter > t.lane ? t.lane : t.lane - t.parameter; });
            break;
        case shim::SHUFFLE_DOWN:
            shuffle([](Thread& t) { return t.parameter >= WARP - t.lane ? t.lane : t.lane + t.parameter; });
            break;
        case shim::BALLOT: all(0, [](uint64_t r, Thread& t) { return t.value ? r | t.bit : r; }); break;
        case shim::ANY: all(0, [](uint64_t r, Thread& t) { return r | t.value; }); break;
        case shim::ALL: all(1, [](uint64_t r, Thread& t) { return r & t.value; }); break;
        case shim::ADD: all(0, [](uint64_t r, Thread& t) { return u32(r + t.value); }); break;
        case shim::MAX: all(0, [](uint64_t r, Thread& t) { return std::max(r, t.value); }); break;
        case shim::MIN: all(~0u, [](uint64_t r, Thread& t) { return std::min(r, t.value); }); break;
        case shim::MAX_INT:
            all(u32(INT32_MIN), [](uint64_t r, Thread& t) { return u32(std::max(i32(r), i32(t.value))); });
            break;
        case shim::MIN_INT:
            all(u32(INT32_MAX), [](uint64_t r, Thread& t) { return u32(std::min(i32(r), i32(t.value))); });
            break;
    }
    group.number++;
    warp.begun &= ~(1u << (&group - warp.groups));
    if (mask == warp.exists)
        warp.ready = mask;  // all lanes, and so all ranks
    else
        each([&](Thread& thread) { warp.ready |= thread.rank_bit; });
}

// Why lanes cannot take part in an operation that names them.
std::string absent(const Warp& warp, unsigned lanes) {
    unsigned lane = __builtin_ctz(lanes), bit = 1u << lane;
    if (!(warp.exists & bit)) return format("lane %u, which does not exist in a block of %u threads", lane, size);
    std::string text = format("lane %u (thread %u), ", lane, warp.lanes[lane]->index);
    if (warp.exited & bit) return text + "which has exited";
    return text + "which waits in " + described(barrier_kind, barrier_site);
}

void finish() {
    Thread& self = *current;
    Warp& warp = *self.warp;
    if (warp.begun) leave(self, "exits");
    if (waiting) fail("divergent __syncthreads: this thread exits, " + awaited());
    warp.exited |= self.bit;
    exited++;
    release(&end_token);
    yield();
}

extern "C" void shim_fiber() {
#ifdef SHIM_ASAN
    current->sanitizer = nullptr;
#endif
    arrived(current);
    for (;;) {
        acquire(&start_token);
        kernel->call(values.data());
        finish();
    }
}

}  // namespace

namespace shim {

uint3 thread_index, block_index, block_size, grid_size;
unsigned char* dynamic_shared;

int barrier(Barrier kind, bool predicate, Site site) {
    Thread& self = *current;
    Warp& warp = *self.warp;
    if (warp.begun) leave(self, "is in " + described(kind, site));
    if (exited)
        fail("divergent __syncthreads: this thread is in " + described(kind, site) + ", after the exit of " +
             those([](Thread& t) { return t.warp->exited & t.bit; }));
    if (waiting && (kind != barrier_kind || !same(site, barrier_site)))
        fail("divergent __syncthreads: this thread is in " + described(kind, site) + ", " + awaited());
    if (!waiting) count = 0;
    barrier_kind = kind, barrier_site = site;
    warp.at_barrier |= self.bit;
    count += predicate;
#ifdef SHIM_TSAN
    uint64_t* token = &tokens[phase % 2];  // two, because the next barrier begins before all have left this one
    release(token);
#endif
    if (++waiting == size) {
        result = kind == COUNT ? count : kind == AND ? count == size : count > 0;
        waiting = 0;
        phase++;
        ready_all();
    }
    yield();
#ifdef SHIM_TSAN
    acquire(token);
#endif
    return result;
}

uint64_t warp(Operation operation, unsigned mask, uint64_t value, unsigned parameter, Site site) {
    Thread& self = *current;
    Warp& warp = *self.warp;
    const Group call{operation, mask, 0, site, 0};
    if (!(mask & self.bit))
        fail(format("inactive lane: lane %u calls %s, which does not name it", self.lane, described(call).c_str()));
    Group* joined = nullptr;
    each_group(warp, [&](Group& group) {
        if (!(group.mask & self.bit)) return;
        if (group.mask == mask && group.operation == operation && same(group.site, site))
            joined = &group;
        else if (group.arrived & mask)  // each waits for the other; otherwise this one may come first
            missed("is in " + described(call), warp, group);
    });
    if (!joined) {
        unsigned others = mask & (~warp.exists | warp.exited | warp.at_barrier);
        if (others) fail(format("inactive lane: %s names %s", described(call).c_str(), absent(warp, others).c_str()));
        joined = &warp.groups[self.lane];
        *joined = {operation, mask, 0, site, joined->number};
        warp.begun |= self.bit;
    }
    Group& group = *joined;
    self.value = value;
    self.parameter = parameter;
    group.arrived |= self.bit;
#ifdef SHIM_TSAN
    // Only __syncwarp orders memory; shuffles and votes do not.
    uint64_t* token = &tokens[2 + (self.index / WARP * WARP + (&group - warp.groups)) * 2 + group.number % 2];
    if (operation == SYNC) release(token);
#endif
    if (group.arrived == mask) complete(warp, group);
    yield();
#ifdef SHIM_TSAN
    if (operation == SYNC) acquire(token);
#endif
    return self.result;
}

void fence() {
    acquire(&fence_token);
    release(&fence_token);
}

void wrong_width(int width, Site site) {
    fail(format("a shuffle of width %d at %s: only 32 is known here", width, place(site).c_str()));
}

Kernel::Kernel(const char* name, const char* text, long bound, const Parameter* parameters, int n, void (*f)(void**))
    : name(name), parameters_text(text), bound(bound), parameters(parameters), count(n), call(f), next(kernels) {
    kernels = this;
}

}  // namespace shim

namespace {

// ---- memory

// Allocates exactly this size, so that the sanitizer can check both ends; malloc aligns it to 16 bytes. For size 0, it
// returns the end of an allocation.
unsigned char* allocate(size_t size) {
    return size ? static_cast<unsigned char*>(malloc(size)) : static_cast<unsigned char*>(malloc(16)) + 16;
}

void release_memory(unsigned char* begin, size_t size) {
    if (begin) free(size ? begin : begin - 16);
}

struct Range {
    unsigned char* begin;
    size_t size;
};
std::vector<Range> static_shared;

// Finds the sections "cuda.shared.N" of this executable.
void find_static_shared() {
#ifdef __ELF__
    uintptr_t bias = 0;
    dl_iterate_phdr(
        [](dl_phdr_info* info, size_t, void* bias) {
            *static_cast<uintptr_t*>(bias) = info->dlpi_addr;
            return 1;  // the first is the executable
        },
        &bias);
    FILE* file = fopen("/proc/self/exe", "rb");
    if (!file) return;
    auto read = [file](size_t offset, void* to, size_t size) {
        if (fseek(file, offset, SEEK_SET) || fread(to, 1, size, file) != size) fail("cannot read /proc/self/exe");
    };
    ElfW(Ehdr) header;
    read(0, &header, sizeof header);
    std::vector<ElfW(Shdr)> sections(header.e_shnum);
    read(header.e_shoff, sections.data(), sections.size() * sizeof sections[0]);
    std::string names(sections[header.e_shstrndx].sh_size, 0);
    read(sections[header.e_shstrndx].sh_offset, &names[0], names.size());
    for (auto& section : sections)
        if (!strncmp(&names[section.sh_name], "cuda.shared.", 12))
            static_shared.push_back({reinterpret_cast<unsigned char*>(bias + section.sh_addr), section.sh_size});
    fclose(file);
#endif
}

// Fills memory without memset, which the sanitizers intercept: redzones lie between the variables.
void fill(Range range) {
    volatile unsigned char* to = range.begin;
    for (size_t i = 0; i < range.size; i++) to[i] = GARBAGE;
}

// Renews shared memory for the next block: it remembers neither values nor, under TSan, who touched it.
void renew_shared() {
    auto renew = [](Range range) {
#ifdef SHIM_TSAN
        // Nothing else makes TSan forget accesses. The range consists of whole words, because TSan tracks nothing
        // smaller.
        uintptr_t begin = reinterpret_cast<uintptr_t>(range.begin), end = begin + range.size;
        begin &= ~uintptr_t(7), end = (end + 7) & ~uintptr_t(7);
        __tsan_java_alloc(begin, end - begin);
        __tsan_java_free(begin, end - begin);
#endif
        fill(range);
    };
    for (Range range : static_shared) renew(range);
    if (shared_size) renew({shim::dynamic_shared, shared_size});
}

// ---- a launch

std::vector<Thread>& fibers(unsigned parity, unsigned number) {
    std::vector<Thread>& threads = pool[parity];
    if (threads.empty()) threads.reserve(MOST_THREADS);  // so that they never move
    while (threads.size() < number) {
        void* memory = mmap(nullptr, PAGE + STACK, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (memory == MAP_FAILED || mprotect(static_cast<char*>(memory) + PAGE, STACK, PROT_READ | PROT_WRITE))
            fail(format("no memory for the stacks of %u threads: %s", number, strerror(errno)));
        Thread& thread = threads.emplace_back();
        thread.index = threads.size() - 1;
        thread.lane = thread.index % WARP;
        thread.bit = 1u << thread.lane;
        thread.warp = &warps[thread.index / WARP];
        thread.stack = static_cast<char*>(memory) + PAGE;
        prepare(thread);
#ifdef SHIM_TSAN
        thread.sanitizer = __tsan_create_fiber(0);
#endif
    }
    return threads;
}

void run_block(long order, unsigned parity) {
    threads = fibers(parity, size).data();
    unsigned number = (size + WARP - 1) / WARP;
    for (unsigned i = 0; i < number; i++) {
        Warp& warp = warps[i];
        unsigned lanes = std::min(WARP, size - i * WARP);
        warp = {};
        warp.exists = lanes == WARP ? ~0u : (1u << lanes) - 1;
        for (unsigned lane = 0; lane < lanes; lane++) warp.lanes[lane] = warp.ranks[lane] = &threads[i * WARP + lane];
        arrange(warp.ranks, lanes, order);
        for (unsigned rank = 0; rank < lanes; rank++) warp.ranks[rank]->rank_bit = 1u << rank;
        warp_ranks[i] = &warp;
    }
    arrange(warp_ranks, number, order);
#ifdef SHIM_TSAN
    for (unsigned i = 0; i < size; i++)
        __tsan_set_fiber_name(threads[i].sanitizer, format("block %u, thread %u", shim::block_index.x, i).c_str());
#endif
    waiting = exited = phase = 0;
    renew_shared();
    ready_all();
    running = true;
    yield();
    running = false;
}

void run_grid(unsigned grid, long order) {
    std::vector<unsigned> blocks(grid);
    std::iota(blocks.begin(), blocks.end(), 0);
    random_state = order;
    arrange(blocks.data(), blocks.size(), order);
    shim::grid_size = {grid, 1, 1};
    shim::block_size = {size, 1, 1};
    std::vector<uint64_t*> used;
    release(&start_token);
    unsigned parity = 0;
    for (unsigned block : blocks) {
        shim::block_index = {block, 0, 0};
#ifdef SHIM_TSAN
        used.push_back(tokens = static_cast<uint64_t*>(malloc((2 + 2 * (size + WARP)) * sizeof *tokens)));
        parity ^= 1;
#endif
        run_block(order, parity);
    }
    acquire(&end_token);
    for (uint64_t* old : used) free(old);
}

// ---- the protocol with the launcher

void tell_kernels(FILE* out) {
    for (Kernel* k = kernels; k; k = k->next) {
        fprintf(out, "%s\t%s\t%ld", k->name, k->parameters_text, k->bound);
        for (int i = 0; i < k->count; i++) {
            const Parameter& p = k->parameters[i];
            fprintf(out, "\t%d %d %c %d %d", p.pointer, p.constant, p.kind, p.item, p.size);
        }
        fputc('\n', out);
    }
    fputc('\n', out);
    fflush(out);
}

void read_exactly(void* to, size_t size) {
    if (fread(to, 1, size, stdin) != size) _exit(0);  // the launcher is gone
}

// Serves one launch, which is sent as "name grid block shared order", the size of each argument (-1 for NULL), a
// newline and the arguments' bytes. Returns false at the end of the input.
bool serve(FILE* out) {
    char name[200];
    unsigned grid;
    long order;
    if (scanf("%199s %u %u %zu %ld", name, &grid, &size, &shared_size, &order) != 5) return false;
    for (kernel = kernels; strcmp(kernel->name, name);) kernel = kernel->next;  // the launcher checks that it exists
    std::vector<long long> sizes(kernel->count);
    for (long long& bytes : sizes)
        if (scanf("%lld", &bytes) != 1) _exit(0);
    getchar();
    buffers.assign(kernel->count, {});
    std::vector<void*> pointers(kernel->count, nullptr);
    values.assign(kernel->count, nullptr);
    for (int i = 0; i < kernel->count; i++) {
        values[i] = &pointers[i];
        if (sizes[i] < 0) continue;
        Buffer& buffer = buffers[i];
        buffer.size = sizes[i];
        buffer.begin = allocate(buffer.size);
        read_exactly(buffer.begin, buffer.size);
        if (!kernel->parameters[i].pointer)
            values[i] = buffer.begin;
        else
            pointers[i] = buffer.begin;
        if (kernel->parameters[i].constant) buffer.copy.assign(buffer.begin, buffer.begin + buffer.size);
    }
    shim::dynamic_shared = allocate(shared_size);

    alarm(TIME_LIMIT);
    run_grid(grid, order);
    alarm(0);

    for (int i = 0; i < kernel->count; i++) {
        const std::vector<unsigned char>& before = buffers[i].copy;
        auto change = std::mismatch(before.begin(), before.end(), buffers[i].begin);
        if (change.first != before.end())
            fail(format("writes to argument %d (%s), a pointer to const: byte %zd changed", i,
                        parameter_name(i).c_str(), change.first - before.begin()));
    }
    fputs("done\n", out);
    for (int i = 0; i < kernel->count; i++)
        if (kernel->parameters[i].pointer && !kernel->parameters[i].constant)
            fwrite(buffers[i].begin, 1, buffers[i].size, out);
    fflush(out);
    for (Buffer& buffer : buffers) release_memory(buffer.begin, buffer.size);
    release_memory(shim::dynamic_shared, shared_size);
    kernel = nullptr;
    return true;
}

}  // namespace

int main() {
    // What a kernel prints goes to stderr, because the launcher reads the original stdout.
    FILE* out = fdopen(dup(1), "wb");
    dup2(2, 1);
    prepare_signals();
    find_static_shared();
#ifdef SHIM_TSAN
    launcher.sanitizer = __tsan_get_current_fiber();
#endif
    tell_kernels(out);
    while (serve(out)) {
    }
}
