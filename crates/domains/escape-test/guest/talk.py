# What goes through the guest's own kernel: TCP, UDP, DNS, TLS, vsock; and what links there are.


def read(s, until):
    """What comes: (bytes, how it ended)."""
    data = b""
    while len(data) < 65536:
        left = until - time.monotonic()
        if left <= 0:
            return data, "open"
        s.settimeout(left)
        try:
            part = s.recv(65536)
        except (socket.timeout, TimeoutError):
            return data, "open"
        except OSError as e:
            return data, errno.errorcode.get(e.errno, str(e))
        if not part:
            return data, "closed"
        data += part
        # The rest of an answer is not long in coming.
        until = min(until, time.monotonic() + 0.3)
    return data, "open"


def patient(do):
    """Does it again and again, for as long as the act says, until there is data."""

    def again(act):
        end = time.monotonic() + act["again"]
        while True:
            try:
                line = do(act)
            except LookupError as e:
                line = saw("unsent", 0, "no address for %s" % e)
            if line["saw"] == "reply" or time.monotonic() >= end:
                return line
            time.sleep(0.2)

    return again


@patient
def tcp(act):
    address = address_of(act["to"])
    with socket.socket(family(address), socket.SOCK_STREAM) as s:
        s.settimeout(LIMIT)
        try:
            s.connect((address, act["port"]))
        except OSError as e:
            return failed(e, 1, ":" in address)
        end = ""
        try:
            s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for part in act["send"]:
                s.sendall(bytes.fromhex(part))
                time.sleep(act["gap"] / 1000)
        except OSError as e:
            end = errno.errorcode.get(e.errno, str(e))
        data, how = read(s, time.monotonic() + LIMIT)
        return saw("reply" if data else "connected", 1, end or how, data)


def udp(act):
    address = act["to"]
    with socket.socket(family(address), socket.SOCK_DGRAM) as s:
        s.settimeout(LIMIT)
        sent = 0
        try:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            s.connect((address, act["port"]))
            for datagram in act["send"]:
                s.send(bytes.fromhex(datagram))
                sent += 1
            return saw("reply", sent, "", s.recv(65536))
        except OSError as e:
            return failed(e, sent, ":" in address)


def ask(act, query):
    """One query, and its answer; again if there is none, since a server may let some go when there are many."""
    for turn in range(1 if act["fast"] else 3):
        with socket.socket(family(act["to"]), socket.SOCK_STREAM if act["tcp"] else socket.SOCK_DGRAM) as s:
            s.settimeout(LIMIT)
            s.connect((act["to"], 53))
            s.sendall(struct.pack(">H", len(query)) + query if act["tcp"] else query)
            if act["fast"]:
                return b""
            try:
                if not act["tcp"]:
                    return answer_to(query, s)
                part = s.recv(65536)
                while part and len(part) < 2 + struct.unpack(">H", part[:2].ljust(2, b"\xff"))[0]:
                    more = s.recv(65536)
                    if not more:
                        break
                    part += more
                return part[2:]
            except (socket.timeout, TimeoutError):
                continue
    return None


def dns(act):
    """Answers with data are a reply; those without are a refusal."""
    sent, rcodes, found, data = 0, [], 0, b""
    for query in act["queries"]:
        sent += 1
        try:
            part = ask(act, bytes.fromhex(query))
        except OSError as e:
            if card() is None or ":" in act["to"]:
                return failed(e, sent, True)
            rcodes.append(errno.errorcode.get(e.errno, str(e)))
            continue
        if part is None:
            rcodes.append("silent")
        elif len(part) < 12:
            rcodes.append("closed")
        else:
            data = part
            rcodes.append(part[3] & 15)
            found += struct.unpack(">H", part[6:8])[0] if part[3] & 15 == 0 else 0
    text = "rcode %s" % ",".join(str(r) for r in rcodes[:8])
    if found:
        return saw("reply", sent, text + " " + " ".join(addresses(data)[:4]), data)
    if act["fast"] or all(r == "silent" for r in rcodes):
        return saw("silent", sent, "" if act["fast"] else text)
    return saw("refused", sent, text)


@patient
def https(act):
    """TLS by Python's own library, whoever the other end says it is; within it, a request."""
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    address = address_of(act["to"])
    with socket.socket(family(address), socket.SOCK_STREAM) as s:
        s.settimeout(LIMIT)
        try:
            s.connect((address, act["port"]))
        except OSError as e:
            return failed(e, 1, ":" in address)
        try:
            if act["before"]:
                s.sendall(bytes.fromhex(act["before"]))
                data, how = read(s, time.monotonic() + LIMIT)
                if b" 200 " not in data.split(b"\r\n")[0]:
                    return saw("reply" if data else "connected", 1, how, data)
            t = context.wrap_socket(s, server_hostname=act["sni"])
            t.sendall(bytes.fromhex(act["request"]))
            data, how = read(t, time.monotonic() + LIMIT)
            return saw("reply" if data else "connected", 1, how, data)
        except OSError as e:
            return saw("connected", 1, type(e).__name__ + " " + str(e))


def live(act):
    """Goes on by a connection once our DNS no longer answers for a name."""
    address = address_of(act["to"])
    with socket.socket(family(address), socket.SOCK_STREAM) as s:
        s.settimeout(LIMIT)
        s.connect((address, act["port"]))
        for part in act["first"]:
            s.sendall(bytes.fromhex(part))
            read(s, time.monotonic() + LIMIT)
        with OUT:
            sys.stdout.write(json.dumps({"ready": act["to"]}) + "\n")
            sys.stdout.flush()
        end = time.monotonic() + act["seconds"]
        while True:
            try:
                address_of("@" + act["until"])
            except LookupError:
                break
            if time.monotonic() > end:
                return saw("unable", 0, "the policy did not change")
            time.sleep(0.1)
        # What was on its way when it changed.
        time.sleep(0.3)
        s.settimeout(0)
        try:
            while s.recv(65536):
                pass
        except OSError:
            pass
        s.settimeout(LIMIT)
        try:
            s.sendall(bytes.fromhex(act["then"]))
        except OSError as e:
            return saw("refused", 1, errno.errorcode.get(e.errno, str(e)))
        data, how = read(s, time.monotonic() + LIMIT)
        return saw("reply" if data else "silent" if how == "open" else "refused", 1, how, data)


def vsock(act):
    if not hasattr(socket, "AF_VSOCK"):
        return saw("unable", 0, "no AF_VSOCK")
    got, last = [], "nothing"
    for port in act["ports"]:
        try:
            s = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
        except OSError as e:
            # No such channel in this kernel: nothing to be reached by it.
            return saw("refused", 0, errno.errorcode.get(e.errno, str(e)))
        with s:
            s.settimeout(LIMIT / 3)
            try:
                s.connect((act["cid"], port))
                got.append(port)
            except OSError as e:
                last = errno.errorcode.get(e.errno, str(e))
    if got:
        return saw("connected", len(act["ports"]), "ports %s" % got)
    return saw("refused", len(act["ports"]), last)


def links(act):
    """The links there are, and the ways to elsewhere."""
    names = [name for _, name in socket.if_nameindex() if name != "lo"]
    ways = []
    for address in act["ways"]:
        with socket.socket(family(address), socket.SOCK_DGRAM) as s:
            try:
                # Sends nothing: only asks which way it would take.
                s.connect((address, 9))
                ways.append(address)
            except OSError:
                pass
    if names or ways:
        return saw("connected", 0, "links %s, ways to %s" % (names, ways))
    return saw("refused", 0, "no links, no ways")


def crowd(act):
    """Many connections at once, all of them held; how many came about."""
    address, held, deadline = address_of(act["to"]), [], time.monotonic() + act["seconds"]
    while len(held) < act["count"] and time.monotonic() < deadline:
        s = socket.socket(family(address), socket.SOCK_STREAM)
        s.settimeout(LIMIT)
        try:
            s.connect((address, act["port"]))
            held.append(s)
        except OSError as e:
            s.close()
            if e.errno == errno.EMFILE:
                break
    count = len(held)
    for s in held:
        s.close()
    return saw("connected" if count else "silent", count, "%d connections" % count)


DO = {
    "frames": frames, "packets": packets, "ping": ping, "flood": flood, "tcp": tcp, "udp": udp, "dns": dns,
    "https": https, "vsock": vsock, "links": links, "crowd": crowd, "live": live,
}
