/* An association for a moment, driven from the control thread. Called by the forwarder's open and by api_fabric.c. */
#include "nvmetcp/host_probe.h"

#include <errno.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/util.h"

#define PROBE_REACTOR 999u /* the name of its thread */

struct vn_probe {
    struct vn_reactor *reactor;
    struct vn_conn_group group;
    struct vn_assoc *assoc;
    struct sockaddr_storage address;
    sem_t told;  /* READY or closed; or the answer to a command */
    sem_t ended; /* closed */
    bool ready;
    struct vn_assoc_facts facts; /* when it was ready: the association's own go on changing */
    /* one command */
    const struct vn_sqe *sqe;
    struct iovec iov;
    vn_status status;
    uint32_t result;
    int err;
};

static void on_ready(struct vn_assoc *assoc) {
    struct vn_probe *probe = assoc->ctx;
    probe->facts = assoc->facts;
    probe->ready = true;
    sem_post(&probe->told);
}

static void on_lost(struct vn_assoc *assoc) {
    (void)assoc; /* closed follows */
}

static void on_closed(struct vn_assoc *assoc) {
    struct vn_probe *probe = assoc->ctx;
    if (!probe->ready)
        sem_post(&probe->told);
    sem_post(&probe->ended);
}

static void on_changed(struct vn_assoc *assoc) {
    (void)assoc;
}

static const struct vn_assoc_ops ops = {.ready = on_ready,
                                        .lost = on_lost,
                                        .closed = on_closed,
                                        .ns_changed = on_changed,
                                        .ana_changed = on_changed};

static int start(void *arg) {
    struct vn_probe *probe = arg;
    vn_conn_group_init(&probe->group, probe->reactor);
    vn_assoc_start(probe->assoc, &probe->group, &probe->address);
    return 0;
}

static int stop(void *arg) {
    struct vn_probe *probe = arg;
    vn_assoc_fail(probe->assoc, ECANCELED, "%s", "closed");
    return 0;
}

static int fini(void *arg) {
    struct vn_probe *probe = arg;
    vn_conn_group_fini(&probe->group);
    return 0;
}

static void wait_for(sem_t *sem) {
    while (sem_wait(sem) < 0 && errno == EINTR)
        ;
}

/* Its association has ended, or has never begun. */
static void probe_free(struct vn_probe *probe) {
    if (probe->reactor) {
        vn_reactor_call(probe->reactor, fini, probe);
        vn_reactor_stop(probe->reactor);
    }
    if (probe->assoc)
        vn_assoc_free(probe->assoc);
    sem_destroy(&probe->told);
    sem_destroy(&probe->ended);
    free(probe);
}

int vn_probe_open(const struct vn_assoc_config *config, const struct sockaddr_storage *address, struct vn_probe **out,
                  char *why, uint32_t why_bytes) {
    struct vn_probe *probe = calloc(1, sizeof(*probe));
    snprintf(why, why_bytes, "out of memory");
    if (!probe)
        return -ENOMEM;
    probe->address = *address;
    sem_init(&probe->told, 0, 0);
    sem_init(&probe->ended, 0, 0);
    int err = vn_assoc_create(config, &ops, probe, &probe->assoc);
    if (err)
        goto out_free;
    struct vn_reactor *reactor;
    err = vn_reactor_start(PROBE_REACTOR, 0, &reactor);
    if (err) {
        snprintf(why, why_bytes, "cannot start a reactor: %s", strerror(-err));
        goto out_free;
    }
    probe->reactor = reactor;
    vn_reactor_call(reactor, start, probe);
    wait_for(&probe->told); /* the association has connect_ms */
    if (probe->ready) {
        *out = probe;
        return 0;
    }
    err = -probe->assoc->err;
    snprintf(why, why_bytes, "%s", probe->assoc->why);
out_free:
    probe_free(probe);
    return err;
}

const struct vn_assoc_facts *vn_probe_facts(const struct vn_probe *probe) {
    return &probe->facts;
}

static void on_answer(struct vn_hcmd *cmd, enum vn_hcmd_fate fate) {
    struct vn_probe *probe = vn_container_of(cmd->iov, struct vn_probe, iov);
    probe->err = fate == VN_FATE_DONE ? 0 : -ECONNRESET;
    probe->status = cmd->status;
    probe->result = (uint32_t)cmd->result;
    sem_post(&probe->told);
}

static int send_one(void *arg) {
    struct vn_probe *probe = arg;
    uint32_t bytes = (uint32_t)probe->iov.iov_len;
    struct vn_hcmd *cmd = vn_assoc_admin(probe->assoc, probe->sqe->opcode, bytes ? VN_HCMD_IN : VN_HCMD_NONE,
                                         &probe->iov, bytes, on_answer);
    if (!cmd)
        return -ENOTCONN;
    cmd->capsule.pdu.cmd.sqe = *probe->sqe;
    vn_hcmd_send(cmd);
    return 0;
}

int vn_probe_admin(struct vn_probe *probe, const struct vn_sqe *sqe, void *buf, uint32_t bytes, vn_status *status,
                   uint32_t *result) {
    if (bytes > VN_ASSOC_TRANSFER_MAX)
        return -EINVAL;
    probe->sqe = sqe;
    probe->iov = (struct iovec){buf, bytes};
    int err = vn_reactor_call(probe->reactor, send_one, probe);
    if (err)
        return err;
    wait_for(&probe->told); /* a silent target is given up by the keep-alive timeout */
    *status = probe->status;
    *result = probe->result;
    return probe->err;
}

void vn_probe_close(struct vn_probe *probe) {
    vn_reactor_call(probe->reactor, stop, probe);
    wait_for(&probe->ended);
    probe_free(probe);
}
