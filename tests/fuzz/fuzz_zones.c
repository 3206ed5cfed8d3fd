/* Zoned namespaces, fast, slow and failing ones beside a conventional one: writes and appends at and around write pointers, every
 * zone action, reports, formats, sanitizes and resets, all in flight at once. The zones' counts hold after every step.
 */
#include "fuzz_queues.h"

#include "fuzz_shapes.h"
#include "ns/zoned.h"

#define MAX_STEPS 64u /* bounds what an input may cost */
#define ZONE_BYTES 65536u
#define CSS_ALL 6u /* without which zones are out of reach */

static uint32_t nr_steps;

/* A block of the namespace: mostly the write pointer of a zone, its start, or one beside them. */
static uint64_t take_lba(struct input *input, const struct vn_zoned *zoned) {
    uint8_t kind = take8(input);
    if (!zoned || kind >= 0xf0)
        return shape_address(input);
    uint32_t index = kind % zoned->zones.geometry.nr;
    uint64_t start = vn_zones_start(&zoned->zones, index);
    if (kind & 0x40)
        start += zoned->zones.zones[index].wp;
    if ((kind & 0x30) == 0x30)
        start += take8(input) % 3 - 1u;
    return start;
}

static struct vn_sqe take_zone_command(struct input *input) {
    static const uint64_t opcodes[] = {VN_IO_WRITE, VN_IO_WRITE, VN_IO_ZONE_APPEND, VN_IO_ZONE_APPEND, VN_IO_ZONE_SEND, VN_IO_ZONE_SEND,
                                       VN_IO_ZONE_RECEIVE, VN_IO_READ, VN_IO_WRITE_ZEROES, VN_IO_WRITE_UNCORRECTABLE, VN_IO_FLUSH,
                                       VN_IO_COMPARE, VN_IO_VERIFY};
    static const uint64_t actions[] = {VN_ZONE_CLOSE, VN_ZONE_FINISH, VN_ZONE_OPEN, VN_ZONE_RESET, VN_ZONE_SET_OFFLINE,
                                       VN_ZONE_SET_EXTENSION, VN_ZONE_RESET};
    struct vn_sqe cmd = {.opcode = (uint8_t)take_of(input, opcodes, VN_ARRAY_SIZE(opcodes), 1), .nsid = 1 + take8(input) % 3u};
    cmd.cid = take8(input) % 64;
    shape_pointer(input, &cmd);
    const struct vn_zoned *zoned = rig.spaces[cmd.nsid]->zoned;
    shape_put((uint8_t *)&cmd.cdw10, take_lba(input, zoned), 8);
    uint8_t shape = take8(input);
    switch (cmd.opcode) {
    case VN_IO_ZONE_SEND:
        cmd.cdw13 = (uint32_t)take_of(input, actions, VN_ARRAY_SIZE(actions), 1) | (shape < 0x40 ? VN_ZONE_SELECT_ALL : 0);
        break;
    case VN_IO_ZONE_RECEIVE:
        cmd.cdw12 = shape_small(input) * 16;
        cmd.cdw13 = (shape & 3) | (uint32_t)(take8(input) % 10) << 8 | (shape & 4 ? VN_ZONE_PARTIAL : 0);
        break;
    default:
        cmd.cdw12 = shape % 20u | (shape >= 0xc0 ? (uint32_t)take8(input) << 24 : 0);
        break;
    }
    return cmd;
}

static struct vn_sqe take_admin(struct input *input) {
    struct vn_sqe cmd = shape_admin(input, rig.ram);
    switch (take8(input) % 4) {
    case 0: /* zones that have changed, the zoned structures, an event request */
        cmd.opcode = VN_ADMIN_GET_LOG_PAGE;
        cmd.cdw10 = 0xbf | 0x3ffu << 16 | (cmd.cdw10 & 1u << 15);
        break;
    case 1:
        cmd.opcode = VN_ADMIN_IDENTIFY;
        cmd.cdw10 = 5u + take8(input) % 6;
        cmd.cdw11 = 2u << 24;
        break;
    case 2:
        cmd.opcode = VN_ADMIN_ASYNC_EVENT;
        break;
    default:
        break;
    }
    return cmd;
}

/* Answers false when the reactor shall turn. */
static bool one_op(struct input *input) {
    struct vn_sqe cmd;
    uint32_t op = take8(input) % 16;
    switch (op) {
    case 0:
    case 1:
        cmd = take_admin(input);
        push(0, &cmd);
        break;
    case 2:
    case 3:
    case 4:
    case 5:
    case 6:
        for (uint32_t nr = 1 + take8(input) % 5; nr; nr--) {
            cmd = take_zone_command(input);
            push(1 + take8(input) % (NR_QUEUES - 1), &cmd);
        }
        break;
    case 7:
        cmd = shape_io(input, rig.ram);
        push(1, &cmd);
        break;
    case 11: /* FLR, or a QEMU that has gone */
        vn_ctrl_disable(&rig.ctrl);
        return false;
    default:
        return host_op(op, input, CSS_ALL);
    }
    return true;
}

/* What is counted is what there is, within the limits, and no write pointer has left its zone. */
static void check_zones(const struct vn_zones *zones) {
    const struct vn_zone_geometry *geometry = &zones->geometry;
    uint32_t nr_open = 0, nr_active = 0, nr_implicit = 0, listed = 0;
    for (uint32_t i = 0; i < geometry->nr; i++) {
        const struct vn_zone *zone = &zones->zones[i];
        bool is_open = zone->state == VN_ZONE_IMPLICIT || zone->state == VN_ZONE_EXPLICIT;
        nr_implicit += zone->state == VN_ZONE_IMPLICIT;
        nr_open += is_open;
        nr_active += is_open || zone->state == VN_ZONE_CLOSED;
        MUST(zone->wp <= geometry->capacity && zone->done <= zone->wp);
        MUST(zone->state != VN_ZONE_EMPTY || zone->wp == 0);
        MUST(zone->inflight || zone->done == zone->wp || zone->state >= VN_ZONE_READ_ONLY);
    }
    MUST(nr_open == zones->nr_open && nr_active == zones->nr_active && nr_implicit == zones->nr_implicit);
    MUST(!geometry->max_open || nr_open <= geometry->max_open);
    MUST(!geometry->max_active || nr_active <= geometry->max_active);
    for (uint32_t i = zones->first; i != VN_ZONE_NONE && listed <= nr_implicit; i = zones->zones[i].next, listed++)
        MUST(zones->zones[i].state == VN_ZONE_IMPLICIT);
    MUST(listed == nr_implicit);
}

static void check_all(void) {
    check_invariants(&rig.ctrl);
    for (uint32_t nsid = 1; nsid <= RING_NR_NS; nsid++) {
        if (rig.spaces[nsid]->zoned)
            check_zones(&rig.spaces[nsid]->zoned->zones);
    }
}

static void start(struct ring_rig *at) {
    ring_add_namespaces(at);
    fuzz_map(0, RING_RAM_BYTES, true);
    bring_up(CSS_ALL);
}

static void step(struct ring_rig *unused) {
    (void)unused;
    bool go_on = true;
    while (program.left && go_on) {
        go_on = one_op(&program);
        check_all();
    }
    ring_turn(&rig);
    catch_up();
    step_on = program.left > 0 && ++nr_steps < MAX_STEPS;
}

static void open_spaces(void) {
    static const struct vn_zoned_opts limited = {
        .zone_size = ZONE_BYTES, .capacity = 48u << 10, .max_open = 2, .max_active = 4, .extension = VN_ZONE_EXTENSION_BYTES};
    static const struct vn_zoned_opts plain = {.zone_size = ZONE_BYTES, .append = 16u << 10};
    static const struct vn_ns_opts opts[RING_NR_NS] = {
        {.backend = "mem", .size = 8 * ZONE_BYTES, .block_size = 512, .zoned = &limited},
        {.backend = "mem", .size = 8 * ZONE_BYTES, .block_size = 4096, .zoned = &plain, .delay_us = 50},
        {.backend = "mem", .size = 8 * ZONE_BYTES, .block_size = 512, .zoned = &limited, .error_ppm = 100000, .error_seed = 1},
        {.backend = "mem", .size = 1 << 18, .block_size = 512},
    };
    char error[256];
    for (uint32_t nsid = 1; nsid <= RING_NR_NS; nsid++) {
        CHECK_EQ(vn_ns_create(&opts[nsid - 1], &rig.spaces[nsid], error, sizeof(error)), 0);
        CHECK_EQ(vn_ns_state_open(rig.spaces[nsid], error, sizeof(error)), 0);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct vn_event events[64];
    fuzz_setup();
    program = (struct input){data, size < 4096 ? size : 4096};
    nr_steps = 0;
    ring_open_ctrl(&rig, &(struct vn_ctrl_opts){.max_queues = 4, .max_entries = 64}, fuzz_reactor, fuzz_events);
    open_spaces();
    ring_on(&rig, start);
    for (step_on = true; step_on;)
        ring_on(&rig, step);
    ring_close(&rig);
    while (vn_event_drain(fuzz_events, events, 64))
        ;
    return 0;
}
