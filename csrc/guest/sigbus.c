/* The SIGBUS handler and its table of live guest mappings. Filled by vfu_dev.c; see sigbus.h.
 * The handler runs on the thread that touched the memory, at any instruction: it reads the table without locks, and
 * makes one system call. What it does not know it hands on to whoever was there before.
 */
#include "guest/sigbus.h"

#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>

#define NR_SLOTS 4096u /* of the process: sixteen devices with all their regions */
#define CLAIMED 1u     /* no mapping starts there: the slot is being filled */

/* base says whose slot it is: 0 nobody's. It is written last, and looked at again after the rest was read. */
static struct {
    atomic_uintptr_t base;
    atomic_size_t len, page_size;
    _Atomic(atomic_bool *) lost;
} slots[NR_SLOTS];
static atomic_uint nr_used; /* slots from here on were never used */

static struct sigaction previous;
static unsigned nr_installed; /* control thread */

/* Puts an empty page where addr is. False: no guest's memory is there. */
static bool replace_page(uintptr_t addr) {
    unsigned nr = atomic_load(&nr_used);
    for (unsigned i = 0; i < nr; i++) {
        uintptr_t base = atomic_load(&slots[i].base);
        size_t len = atomic_load(&slots[i].len), page_size = atomic_load(&slots[i].page_size);
        atomic_bool *lost = atomic_load(&slots[i].lost);
        if (base <= CLAIMED || addr < base || addr - base >= len || atomic_load(&slots[i].base) != base)
            continue;
        void *page = (void *)(addr & ~(uintptr_t)(page_size - 1)); /* of huge pages only whole ones can be replaced */
        if (mmap(page, page_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED)
            return false;
        atomic_store(lost, true);
        return true;
    }
    return false;
}

static void on_sigbus(int signo, siginfo_t *info, void *context) {
    int saved_errno = errno;
    bool replaced = info->si_code == BUS_ADRERR && replace_page((uintptr_t)info->si_addr);
    errno = saved_errno;
    if (replaced)
        return;
    if (previous.sa_flags & SA_SIGINFO) {
        previous.sa_sigaction(signo, info, context);
    } else if (previous.sa_handler != SIG_DFL && previous.sa_handler != SIG_IGN) {
        previous.sa_handler(signo);
    } else { /* nobody wants it: the instruction is repeated, and ends the process as it would have */
        signal(SIGBUS, SIG_DFL);
        if (info->si_code <= 0) /* sent by kill: there is no instruction to repeat */
            raise(SIGBUS);
    }
}

int vn_sigbus_install(void) {
    if (nr_installed++)
        return 0;
    struct sigaction action = {.sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART};
    sigemptyset(&action.sa_mask);
    if (sigaction(SIGBUS, &action, &previous) == 0)
        return 0;
    nr_installed--;
    return -errno;
}

void vn_sigbus_remove(void) {
    struct sigaction now;
    if (--nr_installed)
        return;
    /* One who came after us calls us: then we stay, and hand on. */
    if (sigaction(SIGBUS, NULL, &now) == 0 && (now.sa_flags & SA_SIGINFO) && now.sa_sigaction == on_sigbus)
        sigaction(SIGBUS, &previous, NULL);
}

int vn_sigbus_watch(void *base, size_t len, size_t page_size, atomic_bool *lost) {
    for (unsigned i = 0; i < NR_SLOTS; i++) {
        uintptr_t nobody = 0;
        if (!atomic_compare_exchange_strong(&slots[i].base, &nobody, CLAIMED))
            continue;
        atomic_store(&slots[i].len, len);
        atomic_store(&slots[i].page_size, page_size);
        atomic_store(&slots[i].lost, lost);
        unsigned nr = atomic_load(&nr_used);
        while (nr <= i && !atomic_compare_exchange_weak(&nr_used, &nr, i + 1))
            ;
        atomic_store(&slots[i].base, (uintptr_t)base);
        return 0;
    }
    return -ENOSPC;
}

void vn_sigbus_unwatch(void *base) {
    unsigned nr = atomic_load(&nr_used);
    for (unsigned i = 0; i < nr; i++) {
        if (atomic_load(&slots[i].base) == (uintptr_t)base) {
            atomic_store(&slots[i].base, 0);
            return;
        }
    }
}
