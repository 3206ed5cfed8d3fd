/* The wire client: one vfio-user connection, its messages, descriptors and deadlines. Knows nothing of NVMe.
 * Owner: the thread that uses the host handle. A connection that has lost its place in the stream stays broken.
 */
#ifndef VN_HOST_VFIO_USER_H
#define VN_HOST_VFIO_USER_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "host/vfio_user_wire.h"

#define VN_VU_MAX_FDS 16               /* taken from one reply */
#define VN_VU_SEND_FDS 8               /* put into one message */
#define VN_VU_MAX_TRANSFER (1u << 20)  /* default of the protocol */
#define VN_VU_MAX_MESSAGE (VN_VU_MAX_TRANSFER + 4096u)

struct vn_host_conn {
    int fd;
    uint16_t next_id;
    uint8_t id_is_zero;
    uint8_t server_refused; /* the last -errno came from the server's reply */
    int broken;             /* errno that ended the conversation, or 0 */
    uint32_t timeout_ms;
    uint32_t max_fds;
    uint32_t max_transfer_bytes;
    uint16_t minor;
    pid_t peer_pid;
};

struct vn_host_reply {
    void *data;
    uint32_t size;                /* in: room */
    uint32_t len;                 /* out: payload bytes sent by the server, may be more than size */
    int fds[VN_VU_MAX_FDS];       /* out: owned by the caller */
    uint32_t nr_fds;
};

/* Remembers the sentence for vn_host_error() and answers -err. */
int vn_host_fail(int err, const char *format, ...) __attribute__((format(printf, 2, 3)));

uint64_t vn_host_now_ns(void);
int vn_host_conn_open(struct vn_host_conn *conn, const char *path, uint32_t timeout_ms);
void vn_host_conn_close(struct vn_host_conn *conn);
int vn_host_conn_negotiate(struct vn_host_conn *conn, int bare);

struct vn_host_part { /* up to two pieces make a payload */
    const void *data;
    uint32_t len;
};

/* One command and its reply. Descriptors that the caller did not ask for (reply NULL) are closed. */
int vn_host_conn_request(struct vn_host_conn *conn, uint16_t command, const struct vn_host_part parts[2], const int *fds,
                         uint32_t nr_fds, struct vn_host_reply *reply);
/* One command that the server is told not to answer. */
int vn_host_conn_post(struct vn_host_conn *conn, uint16_t command, const struct vn_host_part parts[2]);
int vn_host_conn_send_bytes(struct vn_host_conn *conn, const void *bytes, size_t len, const int *fds, uint32_t nr_fds,
                            uint64_t deadline_ns);
int vn_host_conn_recv_some(struct vn_host_conn *conn, void *bytes, size_t len, uint64_t deadline_ns, size_t *received);
/* Is the server still there? Answers 0 or -ENOTCONN, and serves nothing. */
int vn_host_conn_check(struct vn_host_conn *conn);
void vn_host_close_fds(int *fds, uint32_t nr);

/* Pure: an unsigned number behind "key": in JSON text of len bytes; 0 or -ENOENT, -EINVAL. */
int vn_host_json_uint(const char *json, size_t len, const char *key, uint64_t *value);
/* Pure: the first sparse area in a region info of len bytes; nr_areas 0 when there is none. -EPROTO when malformed. */
int vn_host_parse_sparse(const void *info, size_t len, uint32_t *nr_areas, struct vn_vu_area *first);
/* Pure: may this header answer command/id? 0, or -EPROTO. */
int vn_host_check_header(const struct vn_vu_header *header, uint16_t command, uint16_t id);

#endif
