/* The NVMe host: brings a controller up and down, creates and deletes queues, sets shadow doorbells up.
 * Called through vhostnvme_host.h. Order and waits follow Base 3.5 (controller initialisation) and 3.6 (shutdown).
 */
#include "host/nvme_host.h"

#include <errno.h>
#include <string.h>
#include <time.h>

#define DEFAULT_ADMIN_ENTRIES 32u
#define SET_UP_TIMEOUT_MS 10000u
#define SHUTDOWN_TIMEOUT_MS 10000u
#define DEFAULT_CC ((6u << 16) | (4u << 20)) /* IOSQES, IOCQES; CSS, MPS, AMS 0 */
#define CC_CSS_ALL (6u << 4)

void vn_host_db_init(struct vn_host *host, struct vn_host_db *db, uint16_t qid, bool is_cq) {
    uint32_t stride = 4u << (host->cap >> VN_CAP_DSTRD_SHIFT & 0xf);
    uint32_t index = 2u * qid + is_cq;
    uint64_t at = VN_REG_DBS + (uint64_t)index * stride;

    memset(db, 0, sizeof(*db));
    db->bar_offset = (uint32_t)at;
    if (host->db_map && at >= host->db_area_offset && at + 4 <= host->db_area_offset + host->db_area_size)
        db->map = (volatile uint32_t *)(void *)((char *)host->db_map + (at - host->db_area_offset));
    if (host->shadow && qid && (uint64_t)index * stride + 4 <= VN_HOST_PAGE) {
        db->shadow = (volatile uint32_t *)(void *)(host->mem + host->shadow_offset + index * stride);
        db->event = (volatile uint32_t *)(void *)(host->mem + host->event_offset + index * stride);
        *db->shadow = 0;
        *db->event = 0;
    }
}

void vn_host_forget_queues(struct vn_host *host) {
    for (uint32_t i = 0; i < VN_HOST_MAX_QUEUES; i++) {
        vn_host_sq_free(host, host->sqs[i]);
        vn_host_cq_free(host, host->cqs[i]);
        host->sqs[i] = NULL;
        host->cqs[i] = NULL;
    }
    host->shadow = false;
}

/* --- Controller --- */

int vn_host_wait_csts(vn_host *host, uint32_t mask, uint32_t value, uint32_t timeout_ms, uint32_t *csts) {
    uint64_t limit_ms = timeout_ms ? timeout_ms : ((host->cap >> VN_CAP_TO_SHIFT & 0xff) + 1) * 500;
    uint64_t deadline = vn_host_now_ns() + limit_ms * 1000000;
    struct timespec nap = {.tv_nsec = 20000};

    for (;;) {
        uint64_t reg;
        int rc = vn_host_reg_read(host, VN_REG_CSTS, 4, &reg);

        if (rc < 0)
            return rc;
        if (csts)
            *csts = (uint32_t)reg;
        if (((uint32_t)reg & mask) == value)
            return 0;
        if ((uint32_t)reg == 0xffffffffu)
            return vn_host_fail(ENOTCONN, "the controller is gone: CSTS reads FFFFFFFFh");
        if (((uint32_t)reg & VN_CSTS_CFS) && (mask & VN_CSTS_RDY) && (value & VN_CSTS_RDY))
            return vn_host_fail(EIO, "the controller reports a fatal error (CSTS.CFS)");
        if (vn_host_now_ns() > deadline)
            return vn_host_fail(ETIMEDOUT, "CSTS is %x, and did not become %x (mask %x) within %llu ms", (uint32_t)reg, value,
                                mask, (unsigned long long)limit_ms);
        nanosleep(&nap, NULL);
        if (nap.tv_nsec < 1000000)
            nap.tv_nsec *= 2;
    }
}

int vn_host_disable(vn_host *host) {
    uint64_t cc;
    int rc = vn_host_reg_read(host, VN_REG_CC, 4, &cc);

    if (rc == 0 && (cc & VN_CC_EN))
        rc = vn_host_reg_write(host, VN_REG_CC, 4, cc & ~(uint64_t)(VN_CC_EN | 0xc000));
    if (rc == 0)
        rc = vn_host_wait_csts(host, VN_CSTS_RDY, 0, 0, NULL);
    if (rc == 0) /* else the controller may still use them */
        vn_host_forget_queues(host);
    return rc;
}

int vn_host_shutdown(vn_host *host, uint32_t abrupt) {
    uint64_t cc;
    int rc = vn_host_reg_read(host, VN_REG_CC, 4, &cc);

    if (rc == 0)
        rc = vn_host_reg_write(host, VN_REG_CC, 4, (cc & ~0xc000ull) | (abrupt ? 0x8000 : 0x4000));
    if (rc == 0)
        rc = vn_host_wait_csts(host, VN_CSTS_SHST_MASK, VN_CSTS_SHST_COMPLETE, SHUTDOWN_TIMEOUT_MS, NULL);
    return rc;
}

static int admin_queues(struct vn_host *host, uint32_t asq_entries, uint32_t acq_entries) {
    int rc;

    host->sqs[0] = vn_host_sq_new(host, 0, asq_entries, 0);
    host->cqs[0] = host->sqs[0] ? vn_host_cq_new(host, 0, acq_entries) : NULL;
    if (!host->cqs[0])
        return -ENOMEM;
    rc = vn_host_reg_write(host, VN_REG_AQA, 4, (asq_entries - 1) | (acq_entries - 1) << 16);
    if (rc == 0)
        rc = vn_host_reg_write(host, VN_REG_ASQ, 8, host->iova_base + host->sqs[0]->mem_offset);
    if (rc == 0)
        rc = vn_host_reg_write(host, VN_REG_ACQ, 8, host->iova_base + host->cqs[0]->mem_offset);
    return rc;
}

int vn_host_enable(vn_host *host, const struct vn_host_enable_opts *opts) {
    static const struct vn_host_enable_opts defaults;
    uint32_t asq, acq, cc;
    int rc;

    opts = opts ? opts : &defaults;
    asq = opts->asq_entries ? opts->asq_entries : DEFAULT_ADMIN_ENTRIES;
    acq = opts->acq_entries ? opts->acq_entries : DEFAULT_ADMIN_ENTRIES;
    if (asq < 2 || asq > 4096 || acq < 2 || acq > 4096)
        return vn_host_fail(EINVAL, "an admin queue has 2 to 4096 entries, not %u and %u", asq, acq);
    rc = vn_host_disable(host);
    if (rc == 0)
        rc = vn_host_reg_read(host, VN_REG_CAP, 8, &host->cap);
    if (rc < 0)
        return rc;
    if ((host->cap >> VN_CAP_MPSMIN_SHIFT & 0xf) != 0)
        return vn_host_fail(ENOTSUP, "the controller has no pages of 4 KiB");
    cc = opts->cc;
    if (!cc)
        cc = DEFAULT_CC | (host->cap & VN_CAP_CSS_NVM ? 0 : CC_CSS_ALL);
    rc = admin_queues(host, asq, acq);
    if (rc == 0)
        rc = vn_host_reg_write(host, VN_REG_CC, 4, cc | VN_CC_EN);
    if (rc == 0)
        rc = vn_host_wait_csts(host, VN_CSTS_RDY, VN_CSTS_RDY, opts->timeout_ms, NULL);
    return rc;
}

int vn_host_shadow_doorbells(vn_host *host, struct vn_host_cqe *cqe) {
    struct vn_sqe identify = {.opcode = VN_ADMIN_IDENTIFY, .cdw10 = VN_CNS_CTRL};
    struct vn_sqe config = {.opcode = VN_ADMIN_DOORBELL_CONFIG};
    uint64_t buffer;
    uint16_t oacs;
    int rc;

    memset(cqe, 0, sizeof(*cqe));
    rc = vn_host_alloc(host, sizeof(struct vn_id_ctrl), &buffer);
    if (rc < 0)
        return rc;
    rc = vn_host_command(host, 0, &identify, buffer, sizeof(struct vn_id_ctrl), SET_UP_TIMEOUT_MS, cqe);
    oacs = ((const struct vn_id_ctrl *)(const void *)(host->mem + buffer))->oacs;
    vn_host_free(host, buffer, sizeof(struct vn_id_ctrl));
    if (rc < 0 || cqe->status)
        return rc;
    if (!(oacs & VN_OACS_DBBUF))
        return vn_host_fail(ENOTSUP, "the controller has no shadow doorbells (OACS bit 8)");
    if (!host->event_offset) { /* kept for good: the controller may write the event indexes at any time */
        rc = vn_host_alloc(host, 2 * VN_HOST_PAGE, &host->shadow_offset);
        if (rc < 0)
            return rc;
        host->event_offset = host->shadow_offset + VN_HOST_PAGE;
    }
    memset(host->mem + host->shadow_offset, 0, 2 * VN_HOST_PAGE);
    config.prp1 = host->iova_base + host->shadow_offset;
    config.prp2 = host->iova_base + host->event_offset;
    rc = vn_host_command(host, 0, &config, 0, 0, SET_UP_TIMEOUT_MS, cqe);
    if (rc == 0 && cqe->status == 0)
        host->shadow = true;
    return rc;
}

/* --- Queues --- */

static int check_new(const char *kind, uint16_t qid, uint32_t entries, bool exists) {
    if (qid == 0 || qid >= VN_HOST_MAX_QUEUES || entries < 2 || entries > 65536)
        return vn_host_fail(EINVAL, "an I/O %s queue has an id of 1 to %u and 2 to 65536 entries, not %u and %u", kind,
                            VN_HOST_MAX_QUEUES - 1, qid, entries);
    return exists ? vn_host_fail(EEXIST, "%s queue %u exists", kind, qid) : 0;
}

int vn_host_create_cq(vn_host *host, uint16_t qid, uint32_t entries, uint32_t vector, uint32_t interrupts,
                      struct vn_host_cqe *cqe) {
    struct vn_sqe sqe = {.opcode = VN_ADMIN_CREATE_CQ,
                         .cdw10 = qid | (entries - 1) << 16,
                         .cdw11 = 1 | (interrupts ? 2 : 0) | vector << 16};
    struct vn_host_cq *cq;
    int rc = check_new("completion", qid, entries, qid < VN_HOST_MAX_QUEUES && host->cqs[qid]);

    if (rc < 0)
        return rc;
    cq = vn_host_cq_new(host, qid, entries);
    if (!cq)
        return -ENOMEM;
    sqe.prp1 = host->iova_base + cq->mem_offset;
    rc = vn_host_command(host, 0, &sqe, 0, 0, SET_UP_TIMEOUT_MS, cqe);
    if (rc < 0 || cqe->status)
        vn_host_cq_free(host, cq);
    else
        host->cqs[qid] = cq;
    return rc;
}

int vn_host_create_sq(vn_host *host, uint16_t qid, uint32_t entries, uint16_t cqid, uint32_t priority,
                      struct vn_host_cqe *cqe) {
    struct vn_sqe sqe = {.opcode = VN_ADMIN_CREATE_SQ,
                         .cdw10 = qid | (entries - 1) << 16,
                         .cdw11 = 1 | (priority & 3) << 1 | (uint32_t)cqid << 16};
    struct vn_host_sq *sq;
    int rc = check_new("submission", qid, entries, qid < VN_HOST_MAX_QUEUES && host->sqs[qid]);

    if (rc < 0)
        return rc;
    sq = vn_host_sq_new(host, qid, entries, cqid);
    if (!sq)
        return -ENOMEM;
    sqe.prp1 = host->iova_base + sq->mem_offset;
    rc = vn_host_command(host, 0, &sqe, 0, 0, SET_UP_TIMEOUT_MS, cqe);
    if (rc < 0 || cqe->status)
        vn_host_sq_free(host, sq);
    else
        host->sqs[qid] = sq;
    return rc;
}

int vn_host_delete_sq(vn_host *host, uint16_t qid, struct vn_host_cqe *cqe) {
    struct vn_sqe sqe = {.opcode = VN_ADMIN_DELETE_SQ, .cdw10 = qid};
    int rc = vn_host_command(host, 0, &sqe, 0, 0, SET_UP_TIMEOUT_MS, cqe);

    if (rc == 0 && cqe->status == 0 && qid && qid < VN_HOST_MAX_QUEUES) {
        vn_host_sq_free(host, host->sqs[qid]);
        host->sqs[qid] = NULL;
    }
    return rc;
}

int vn_host_delete_cq(vn_host *host, uint16_t qid, struct vn_host_cqe *cqe) {
    struct vn_sqe sqe = {.opcode = VN_ADMIN_DELETE_CQ, .cdw10 = qid};
    int rc = vn_host_command(host, 0, &sqe, 0, 0, SET_UP_TIMEOUT_MS, cqe);

    if (rc == 0 && cqe->status == 0 && qid && qid < VN_HOST_MAX_QUEUES) {
        vn_host_cq_free(host, host->cqs[qid]);
        host->cqs[qid] = NULL;
    }
    return rc;
}
