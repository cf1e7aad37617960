/* A guest that is nothing but drivers: it answers on its vsock what it is sent, writes to its second disk when it is told
 * to, and sends a datagram by its network card. No interrupts, no memory management; it asks its devices in turn, for
 * ever.
 *
 * On the serial port it says `B` when it has booted and `.` now and then. */

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long u64;

#define BARRIER() __asm__ volatile("mfence" ::: "memory")

static void say(u8 letter) { __asm__ volatile("outb %0, %1" ::"a"(letter), "d"((u16)0x3f8)); }

/* virtio, split queues */

#define SIZE 8

struct desc { u64 addr; u32 len; u16 flags; u16 next; };
struct used { u32 id; u32 len; };
struct queue {
    struct desc desc[SIZE] __attribute__((aligned(16)));
    struct { u16 flags, idx, ring[SIZE]; } avail;
    struct { u16 flags, idx; struct used ring[SIZE]; } used __attribute__((aligned(4)));
    u16 seen;
    volatile u32 *device;
    u32 number;
};

enum { NEXT = 1, WRITE = 2 };

static void set_up(struct queue *q, volatile u32 *device, u32 number) {
    u64 desc = (u64)q->desc, avail = (u64)&q->avail, used = (u64)&q->used;
    q->device = device, q->number = number;
    q->avail.flags = 1; /* no interrupts */
    device[0x30 / 4] = number;
    device[0x38 / 4] = SIZE;
    device[0x80 / 4] = desc, device[0x84 / 4] = 0;
    device[0x90 / 4] = avail, device[0x94 / 4] = 0;
    device[0xa0 / 4] = used, device[0xa4 / 4] = 0;
    device[0x44 / 4] = 1;
}

static void begin(volatile u32 *device) {
    device[0x70 / 4] = 0;
    device[0x70 / 4] = 1;
    device[0x70 / 4] = 3;
    device[0x24 / 4] = 0, device[0x20 / 4] = 0;
    device[0x24 / 4] = 1, device[0x20 / 4] = 1; /* VERSION_1 and nothing else */
    device[0x70 / 4] = 11;
}

static void offer(struct queue *q, u16 head) {
    q->avail.ring[q->avail.idx % SIZE] = head;
    BARRIER();
    q->avail.idx++;
    BARRIER();
    q->device[0x50 / 4] = q->number;
}

static int done(struct queue *q) {
    BARRIER();
    return *(volatile u16 *)&q->used.idx != q->seen;
}

/* the disk */

#define CHUNK (64 << 10)

static struct queue disk;
static struct { u32 type, reserved; u64 sector; } request;
static u8 block[CHUNK], verdict;

static void write_disk(u32 chunks) {
    for (u32 i = 0; i < CHUNK; i++) block[i] = 'w';
    for (u32 i = 0; i < chunks; i++) {
        /* The first megabyte, over and over. */
        request.type = 1, request.sector = i % 16 * (CHUNK / 512);
        disk.desc[0] = (struct desc){(u64)&request, sizeof request, NEXT, 1};
        disk.desc[1] = (struct desc){(u64)block, CHUNK, NEXT, 2};
        disk.desc[2] = (struct desc){(u64)&verdict, 1, WRITE, 0};
        offer(&disk, 0);
        while (!done(&disk)) {}
        disk.seen++;
        if (verdict) say('!');
    }
}

/* the network card */

#define PORT 7000

struct frame {
    u8 virtio[12];
    u8 to[6], from[6], kind[2];
    u8 version, tos, len[2], id[4], life, protocol, sum[2], source[4], target[4];
    u8 from_port[2], to_port[2], udp_len[2], udp_sum[2];
    u8 data[12 << 10]; /* Firecracker receives nothing unless there is room for 64 KiB in all */
} __attribute__((packed));

static struct queue card_in, card_out;
static struct frame came[SIZE], gone;
static volatile u8 *card;

static void put(u8 *at, u32 value) { at[0] = value >> 8, at[1] = value; }
static u32 get(u8 *at) { return at[0] << 8 | at[1]; }

/* To 192.0.0.1, by its hardware address. */
static void send(u8 *data, u32 len) {
    static const u8 gateway[] = {2, 0x4f, 0x52, 0, 0, 1};
    for (u32 i = 0; i < 6; i++) gone.to[i] = gateway[i], gone.from[i] = card[i];
    put(gone.kind, 0x800);
    gone.version = 0x45, gone.life = 64, gone.protocol = 17;
    put(gone.len, 28 + len), put(gone.sum, 0);
    gone.source[0] = gone.target[0] = 192, gone.source[3] = 2, gone.target[3] = 1;
    u32 sum = 0;
    for (u8 *at = &gone.version; at < gone.from_port; at += 2) sum += get(at);
    while (sum >> 16) sum = (sum & 0xffff) + (sum >> 16);
    put(gone.sum, ~sum);
    put(gone.from_port, PORT), put(gone.to_port, PORT), put(gone.udp_len, 8 + len);
    for (u32 i = 0; i < len; i++) gone.data[i] = data[i];
    card_out.desc[0] = (struct desc){(u64)&gone, 12 + 14 + 28 + len, 0, 0};
    offer(&card_out, 0);
    while (!done(&card_out)) {}
    card_out.seen++;
}

/* Waits for a datagram; its length. */
static u32 receive(u8 *data) {
    for (;;) {
        while (!done(&card_in)) {}
        u16 head = card_in.used.ring[card_in.seen++ % SIZE].id;
        struct frame *f = &came[head];
        u32 len = 0;
        if (get(f->kind) == 0x800 && f->protocol == 17 && get(f->to_port) == PORT) len = get(f->udp_len) - 8;
        for (u32 i = 0; i < len; i++) data[i] = f->data[i];
        offer(&card_in, head);
        if (len) return len;
    }
}

/* the vsock */

struct packet {
    u64 from, to;
    u32 from_port, to_port, len;
    u16 type, op;
    u32 flags, room, taken;
    u8 data[4096];
} __attribute__((packed));

#define HEADER 44
enum { REQUEST = 1, RESPONSE, RESET, SHUTDOWN, DATA, UPDATE, UPDATE_REQUEST };

static struct queue in, out, events;
static struct packet got[SIZE], sent;
static u8 event[SIZE][8];
static u32 taken;

static void reply(struct packet *to, u16 op, u32 len) {
    sent.from = to->to, sent.to = to->from;
    sent.from_port = to->to_port, sent.to_port = to->from_port;
    sent.len = len, sent.type = 1, sent.op = op, sent.flags = 0;
    sent.room = 1 << 16, sent.taken = taken;
    out.desc[0] = (struct desc){(u64)&sent, HEADER + len, 0, 0};
    offer(&out, 0);
    while (!done(&out)) {}
    out.seen++;
}

static void handle(struct packet *p) {
    switch (p->op) {
    case REQUEST:
        taken = 0;
        reply(p, RESPONSE, 0);
        break;
    case DATA:
        taken += p->len;
        /* `W` and a number of chunks: answered when they are written. */
        if (p->len >= 2 && p->data[0] == 'W') write_disk(p->data[1]);
        /* `N` and something: sent by the card, and what comes back there is the answer. */
        if (p->len >= 2 && p->data[0] == 'N') {
            send(p->data + 1, p->len - 1);
            reply(p, DATA, receive(sent.data));
            break;
        }
        for (u32 i = 0; i < p->len; i++) sent.data[i] = p->data[i];
        reply(p, DATA, p->len);
        break;
    case UPDATE_REQUEST:
        reply(p, UPDATE, 0);
        break;
    case SHUTDOWN:
        reply(p, RESET, 0);
        break;
    }
}

static u64 devices[512] __attribute__((aligned(4096)));

void run(void) {
    /* The page tables that there are end at 1 GiB; devices are at 3. */
    u64 root;
    __asm__ volatile("mov %%cr3, %0" : "=r"(root));
    u64 *table = (u64 *)(((u64 *)(root & ~0xfffUL))[0] & ~0xfffUL);
    devices[0] = 0xc0000083;
    table[3] = (u64)devices | 3;
    __asm__ volatile("mov %0, %%cr3" ::"r"(root));

    u32 disks = 0;
    for (u64 at = 0xc0000000; at < 0xc0010000; at += 0x1000) {
        volatile u32 *device = (u32 *)at;
        if (device[0] != 0x74726976) continue;
        if (device[2] == 2 && disks++ == 1) {
            begin(device);
            set_up(&disk, device, 0);
            device[0x70 / 4] = 15;
        }
        if (device[2] == 1) {
            begin(device);
            set_up(&card_in, device, 0), set_up(&card_out, device, 1);
            device[0x70 / 4] = 15;
            card = (volatile u8 *)at + 0x100;
            for (u16 i = 0; i < SIZE; i++) {
                card_in.desc[i] = (struct desc){(u64)&came[i], sizeof came[i], WRITE, 0};
                offer(&card_in, i);
            }
        }
        if (device[2] == 19) {
            begin(device);
            set_up(&in, device, 0), set_up(&out, device, 1), set_up(&events, device, 2);
            device[0x70 / 4] = 15;
            for (u16 i = 0; i < SIZE; i++) {
                in.desc[i] = (struct desc){(u64)&got[i], sizeof got[i], WRITE, 0};
                events.desc[i] = (struct desc){(u64)event[i], sizeof event[i], WRITE, 0};
                offer(&in, i), offer(&events, i);
            }
        }
    }
    say('B');
    for (u32 turn = 0;; turn++) {
        if (turn % 1024 == 0) say('.');
        /* The one event: all connections are gone. Until it is taken back, Firecracker sends nothing else. */
        if (done(&events)) offer(&events, events.used.ring[events.seen++ % SIZE].id);
        if (done(&in)) {
            u16 head = in.used.ring[in.seen++ % SIZE].id;
            handle(&got[head]);
            offer(&in, head);
        }
    }
}

__asm__(".globl _start\n_start: lea stack_end(%rip), %rsp\n call run\n"
        ".bss\n.align 16\n.skip 16384\nstack_end:\n.text\n");
