/* Between conn.c, conn_rx.c and conn_tx.c: the halves of a connection.
 */
#ifndef VN_NVMETCP_CONN_INT_H
#define VN_NVMETCP_CONN_INT_H

#include "nvmetcp/conn.h"

enum vn_conn_rx_phase { VN_CONN_RX_HEADER, VN_CONN_RX_PAD, VN_CONN_RX_DATA, VN_CONN_RX_DIGEST };

/* It needs a turn. */
void vn_conn_list(struct vn_conn *conn);
bool vn_conn_wants_input(const struct vn_conn *conn);
/* Input for one turn: receives and handles. Bytes received. */
uint32_t vn_conn_input(struct vn_conn *conn);
/* Sends as much of the queue as goes. */
void vn_conn_flush(struct vn_conn *conn);
/* Behind this one everything is given back; NULL: all of it. */
void vn_conn_give_back(struct vn_conn *conn, struct vn_tx *last_kept);
/* The peer has broken the rules: offender is what has come of its header. */
void vn_conn_reject(struct vn_conn *conn, struct vn_pdu_fault fault, const void *offender, uint32_t bytes);

#endif
