/* An association as a whole: its states, its memory, its end. Called by the forwarder.
 * The steps up to READY are host_setup.c's, what happens by itself afterwards is host_event.c's.
 */
#include "nvmetcp/host.h"

#include <assert.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/util.h"
#include "nvmetcp/address.h"

void vn_assoc_set_state(struct vn_assoc *assoc, enum vn_assoc_state state) {
    static const enum vn_assoc_state before[] = {
        [VN_ASSOC_IDLE] = VN_ASSOC_CLOSING,
        [VN_ASSOC_CONNECTING] = VN_ASSOC_IDLE,
        [VN_ASSOC_READY] = VN_ASSOC_CONNECTING,
        [VN_ASSOC_CLOSING] = VN_ASSOC_READY, /* or CONNECTING */
    };
    assert(assoc->state == before[state] || (state == VN_ASSOC_CLOSING && assoc->state == VN_ASSOC_CONNECTING));
    (void)before;
    assoc->state = state;
}

static void on_step_timer(struct vn_timer *timer) {
    struct vn_assoc *assoc = vn_container_of(timer, struct vn_assoc, step_timer);
    if (assoc->state != VN_ASSOC_CLOSING) {
        vn_setup_wait_over(assoc);
        return;
    }
    vn_timer_disarm(assoc->reactor, &assoc->tick);
    vn_assoc_set_state(assoc, VN_ASSOC_IDLE);
    assoc->ops->closed(assoc);
}

/* Without a namespace there is nothing to do on any. */
static uint32_t nr_io_queues(const struct vn_assoc_config *config) {
    return config->nsid ? config->nr_queues : 0;
}

int vn_assoc_create(const struct vn_assoc_config *config, const struct vn_assoc_ops *ops, void *ctx,
                    struct vn_assoc **out) {
    struct vn_assoc *assoc = calloc(1, sizeof(*assoc));
    if (!assoc)
        return -ENOMEM;
    uint32_t nr_queues = nr_io_queues(config);
    *assoc = (struct vn_assoc){
        .config = config, .ops = ops, .ctx = ctx, .tick.fn = vn_assoc_on_tick, .step_timer.fn = on_step_timer};
    assoc->queues = calloc(1 + nr_queues, sizeof(*assoc->queues));
    assoc->page = calloc(2, VN_ASSOC_PAGE);
    assoc->connect_data = calloc(1, sizeof(*assoc->connect_data));
    int err = assoc->queues && assoc->page && assoc->connect_data ? 0 : -ENOMEM;
    for (uint32_t i = 0; i <= nr_queues && !err; i++)
        err = vn_hq_alloc(&assoc->queues[i], assoc, (uint16_t)i, i ? config->entries : VN_ASSOC_ADMIN_ENTRIES);
    if (err) {
        vn_assoc_free(assoc);
        return err;
    }
    assoc->log_page = assoc->page + VN_ASSOC_PAGE;
    assoc->page_iov = (struct iovec){assoc->page, VN_ASSOC_PAGE};
    assoc->log_iov = (struct iovec){assoc->log_page, VN_ASSOC_PAGE};
    assoc->connect_iov = (struct iovec){assoc->connect_data, sizeof(*assoc->connect_data)};
    memcpy(assoc->connect_data->hostid, config->hostid, sizeof(config->hostid));
    snprintf(assoc->connect_data->subnqn, sizeof(assoc->connect_data->subnqn), "%s", config->subnqn);
    snprintf(assoc->connect_data->hostnqn, sizeof(assoc->connect_data->hostnqn), "%s", config->hostnqn);
    *out = assoc;
    return 0;
}

void vn_assoc_free(struct vn_assoc *assoc) {
    assert(assoc->state == VN_ASSOC_IDLE);
    for (uint32_t i = 0; assoc->queues && i <= nr_io_queues(assoc->config); i++)
        vn_hq_free(&assoc->queues[i]);
    free(assoc->queues);
    free(assoc->page);
    free(assoc->connect_data);
    free(assoc);
}

void vn_assoc_start(struct vn_assoc *assoc, struct vn_conn_group *group, const struct sockaddr_storage *address) {
    assoc->group = group;
    assoc->reactor = group->reactor;
    assoc->address = *address;
    vn_address_print(address, assoc->name, sizeof(assoc->name));
    assoc->why[0] = '\0';
    assoc->err = 0;
    assoc->nr_queues = 0;
    assoc->ready_ns = 0;
    assoc->ana = VN_ANA_OPTIMIZED;
    assoc->keep_alive_out = assoc->page_busy = assoc->log_busy = false;
    assoc->wants_changed = assoc->wants_ana = assoc->wants_ns = false;
    memset(&assoc->facts, 0, sizeof(assoc->facts));
    assoc->started_ns = vn_reactor_now_ns(assoc->reactor);
    vn_assoc_set_state(assoc, VN_ASSOC_CONNECTING);
    vn_timer_arm(assoc->reactor, &assoc->tick, vn_assoc_tick_ns(assoc));
    vn_setup_begin(assoc);
}

void vn_assoc_check_closed(struct vn_assoc *assoc) {
    if (assoc->state == VN_ASSOC_CLOSING && !assoc->nr_open)
        vn_timer_arm(assoc->reactor, &assoc->step_timer, 0);
}

void vn_assoc_fail(struct vn_assoc *assoc, int err, const char *format, ...) {
    if (assoc->state == VN_ASSOC_IDLE || assoc->state == VN_ASSOC_CLOSING)
        return;
    va_list args;
    va_start(args, format);
    vsnprintf(assoc->why, sizeof(assoc->why), format, args);
    va_end(args);
    assoc->err = err;
    vn_timer_disarm(assoc->reactor, &assoc->step_timer);
    vn_assoc_set_state(assoc, VN_ASSOC_CLOSING);
    for (uint32_t i = 0; i <= nr_io_queues(assoc->config); i++)
        vn_hq_close(&assoc->queues[i], -ECANCELED);
    assoc->ops->lost(assoc);
    vn_assoc_check_closed(assoc);
}

struct vn_hcmd *vn_assoc_get(struct vn_assoc *assoc) {
    if (assoc->state != VN_ASSOC_READY)
        return NULL;
    for (uint32_t i = 0; i < assoc->nr_queues; i++) { /* in turn; few */
        uint32_t at = assoc->next_queue;
        assoc->next_queue = at + 1 < assoc->nr_queues ? at + 1 : 0;
        struct vn_hcmd *cmd = vn_hq_get(&assoc->queues[1 + at]);
        if (cmd)
            return cmd;
    }
    return NULL;
}

struct vn_hcmd *vn_assoc_admin(struct vn_assoc *assoc, uint8_t opcode, enum vn_hcmd_data direction,
                               const struct iovec *iov, uint32_t bytes,
                               void (*done)(struct vn_hcmd *cmd, enum vn_hcmd_fate fate)) {
    bool usable = assoc->state == VN_ASSOC_READY || assoc->state == VN_ASSOC_CONNECTING;
    return usable ? vn_hq_command(&assoc->queues[0], opcode, direction, iov, bytes, done) : NULL;
}
