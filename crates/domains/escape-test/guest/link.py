# Frames and packets as they are given: the host made them.


def contains(data, needle):
    return needle in data or needle.hex().encode() in data.lower()


def listen(s, needle, until, outgoing=True):
    """The first frame or packet that comes in with `needle` in it."""
    while True:
        left = until - time.monotonic()
        if left <= 0 or not select.select([s], [], [], left)[0]:
            return None
        data, source = s.recvfrom(65536)
        if len(source) > 2 and source[2] == socket.PACKET_OUTGOING:
            continue
        if contains(data, needle):
            return data


def answer(data, sent, at):
    """An ICMP error repeats what it is about: that is a refusal, not an answer."""
    if data is None:
        return saw("silent", sent)
    icmp = data[at + 9] == 1 and data[at + (data[at] & 15) * 4] in (3, 4, 5, 11, 12)
    return saw("refused" if icmp else "reply", sent, "icmp error" if icmp else "", data)


def frames(act):
    name = card()
    if name is None:
        return saw("unsent", 0, "no card")
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as s:
        s.bind((name, 3))
        sent = 0
        for _ in range(act["times"]):
            for frame in act["frames"]:
                s.send(bytes.fromhex(frame))
                sent += 1
        data = listen(s, bytes.fromhex(act["nonce"]), time.monotonic() + act["wait"])
        return answer(data, sent, 14)


def packets(act):
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as s:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as hear:
            sent = 0
            for packet in act["packets"]:
                try:
                    s.sendto(bytes.fromhex(packet), (act["to"], 0))
                except OSError as e:
                    return failed(e, sent)
                sent += 1
            data = listen(hear, bytes.fromhex(act["nonce"]), time.monotonic() + act["wait"])
            return answer(data, sent, 14)


def checksum(data):
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(">%dH" % (len(data) // 2), data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ping(act):
    """As ping(8) does it: a raw socket for ICMP, the kernel makes the packet."""
    payload = bytes.fromhex(act["payload"])
    head = struct.pack(">BBHHH", 8, 0, 0, os.getpid() & 0xFFFF, 1)
    head = head[:2] + struct.pack(">H", checksum(head + payload)) + head[4:]
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as s:
        s.sendto(head + payload, (act["to"], 0))
        return answer(listen(s, payload[:8], time.monotonic() + LIMIT), 1, 0)


def flood(act):
    """Openings of connections, as many as the card takes, each from a port of its own."""
    name = card()
    if name is None:
        return saw("unsent", 0, "no card")
    gateway = socket.inet_aton(PLAN["gateway"])
    ours, theirs = socket.inet_aton(PLAN["address"]), socket.inet_aton(act["to"])
    ip = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 40, 1, 0x4000, 64, 6, 0, ours, theirs)
    ip = ip[:10] + struct.pack(">H", checksum(ip)) + ip[12:]
    start = bytes.fromhex(PLAN["gateway_mac"]) + bytes.fromhex(PLAN["mac"]) + b"\x08\x00" + ip
    rest = struct.pack(">HII", act["port"], 7, 0) + b"\x50\x02\xff\xff"
    base = sum(struct.unpack(">16H", ours + theirs + b"\x00\x06\x00\x14" + rest + b"\0" * 6))
    # What answers would be answered with a reset by this kernel, and so be forgotten over there: let it have no way.
    # struct rtentry; RTF_UP | RTF_HOST | RTF_REJECT.
    route = struct.pack("Q16s16s16sH6xQQ", 0, b"\2\0\0\0" + theirs, b"\2\0", b"\2\0", 0x205, 0, 0).ljust(120, b"\0")
    sent, begun = 0, time.monotonic()

    def segment(port, flags):
        # Of a reset, the number is the one after the opening's.
        number = 7 if flags == 2 else 8
        total = base + port + (flags - 2) + (number - 7)
        total = (total & 0xFFFF) + (total >> 16)
        total = (total & 0xFFFF) + (total >> 16)
        middle = struct.pack(">HII", act["port"], number, 0) + b"\x50" + bytes([flags]) + b"\xff\xff"
        return start + struct.pack(">H", port) + middle + struct.pack(">HH", ~total & 0xFFFF, 0)

    def port(number):
        return 1024 + number % 64000

    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as s, socket.socket() as control:
        s.bind((name, 0))
        fcntl.ioctl(control.fileno(), 0x890B, route)
        try:
            while sent < act["count"] and time.monotonic() - begun < act["seconds"]:
                try:
                    s.send(segment(port(sent), 2))
                    sent += 1
                except OSError:
                    time.sleep(0.001)
                ahead = sent / act["rate"] - (time.monotonic() - begun)
                if ahead > 0.002:
                    time.sleep(ahead)
        finally:
            # What was opened is ended, or what comes after would have to wait until it is forgotten.
            for number in range(min(sent, act["end"])):
                try:
                    s.send(segment(port(number), 4))
                except OSError:
                    time.sleep(0.001)
            fcntl.ioctl(control.fileno(), 0x890C, route)
    return saw("silent", sent)
