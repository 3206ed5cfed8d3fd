/* The forwarder with a target that is wrong at random: PDUs with a bit or a byte changed, twice, cut off, or the connection
 * ends in them, from the first one on; while requests come, are cancelled, and channels close. Every request ends, no
 * buffer is touched after that (each is freed at once, under ASan), and a target that is sane again has a working host.
 */
#include "forward_rig.h"

enum { NR = 24, ROUNDS = 24, CONNS_LEFT_MIN = 24 };

static struct fake fake;
static struct rig rig;

static void begin(void) {
    fake_open(&fake);
    fake.oncs = VN_ONCS_COMPARE | VN_ONCS_DSM | VN_ONCS_WRITE_ZEROES;
    rig_remote(&rig, &fake);
    rig.remote.kato_ms = 400;
    rig.remote.connect_ms = 200;
    rig.remote.reconnect_ms = 150;
    rig.remote.io_timeout_ms = 300;
    rig.remote.nr_queues = 2;
    rig.remote.queue_entries = 12;
    rig_open(&rig);
}

static void end(void) {
    rig_close(&rig);
    fake_close(&fake);
}

static void round_of_requests(struct vn_test_random *random) {
    static struct job jobs[NR];
    static const enum vn_op ops[] = {VN_OP_READ, VN_OP_READ, VN_OP_WRITE, VN_OP_WRITE, VN_OP_COMPARE, VN_OP_FLUSH,
                                     VN_OP_WRITE_ZEROES, VN_OP_DEALLOCATE};
    for (int i = 0; i < NR; i++) {
        enum vn_op op = ops[vn_test_below(random, VN_ARRAY_SIZE(ops))];
        uint64_t bytes = op == VN_OP_FLUSH ? 0 : 512u << vn_test_below(random, 10);
        job_start(&jobs[i], &rig, op, vn_test_below(random, 1000) * 512, bytes, (uint8_t)i);
    }
    for (int i = 0; i < NR; i++) {
        if (vn_test_below(random, 3) == 0)
            job_cancel(&jobs[i]);
        job_end(&jobs[i]); /* with whatever status: the target may say any */
    }
}

static bool has_room(void) {
    uint32_t nr = 0;
    for (uint32_t i = 0; i < FAKE_CONNS; i++)
        nr += !fake.conns[i].used;
    return nr >= CONNS_LEFT_MIN;
}

static void bend(uint32_t one_of) {
    pthread_mutex_lock(&fake.dice_lock);
    fake.bends = one_of;
    fake.has_bent = true;
    pthread_mutex_unlock(&fake.dice_lock);
}

/* Nothing bent is on its way any more: new connections. */
static void heal(void) {
    bend(0);
    fake_cut(&fake);
    vn_status status;
    do
        status = rig_do(&rig, VN_OP_WRITE, 0, 65536, 0x77);
    while (status);
    rig_check_read(&rig, 0, 65536, 0x77);
}

int main(void) {
    struct vn_test_random random = vn_test_seed();
    begin();
    for (int round = 0; round < ROUNDS; round++) {
        fake.dice.state = vn_test_draw(&random);
        bend(40 + (uint32_t)vn_test_below(&random, 200));
        round_of_requests(&random);
        if (vn_test_below(&random, 4) == 0) {
            rig_detach(&rig);
            rig_attach(&rig);
        }
        if (!has_room()) {
            heal();
            end();
            begin();
        }
    }
    heal();
    end();
    return 0;
}
