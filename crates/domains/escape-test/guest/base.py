# Runs inside a guest, as root, with nothing but Python's standard library (3.8 or later). It does what it is told and
# says what it saw: one JSON line for each attempt. It judges nothing; whoever reads it knows that a guest may lie.
#
# A line: id; saw: silent (sent, and nothing came back), refused (a reset, an ICMP error, an answer without data),
# connected (but no data), reply (data), unsent (this kernel would not send it), unable (no such tool here); sent: how
# many packets went to the card for certain; text; reply: the first bytes of the answer, in hexadecimal.

import base64, errno, fcntl, json, os, queue, select, socket, struct, sys, threading, time

LIMIT = 3.0
PLAN = {}
OUT = threading.Lock()
KEPT = 300


def saw(what, sent=1, text="", reply=b""):
    return {"saw": what, "sent": sent, "text": str(text)[:200], "reply": bytes(reply[:KEPT]).hex()}


def failed(error, sent=1, six=False):
    """What an OSError tells."""
    if isinstance(error, (socket.timeout, TimeoutError)):
        return saw("silent", sent)
    name = errno.errorcode.get(error.errno, str(error))
    if error.errno in (errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT, errno.ESOCKTNOSUPPORT, errno.ENOPROTOOPT):
        return saw("unable", 0, name)
    if card() is None or (six and error.errno in (errno.ENETUNREACH, errno.EADDRNOTAVAIL)):
        return saw("unsent", 0, name)
    if error.errno == errno.EMSGSIZE and sent:
        # By then this kernel had been told how narrow the way is.
        return saw("refused", sent, name)
    if error.errno in (errno.EPERM, errno.EINVAL, errno.EMSGSIZE, errno.ENETDOWN, errno.ENOBUFS):
        return saw("unsent", 0, name)
    if error.errno == errno.ETIMEDOUT:
        return saw("silent", sent)
    return saw("refused", sent, name)


def card():
    """The link that has the guest's hardware address."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        for _, name in socket.if_nameindex():
            try:
                request = struct.pack("256s", name.encode())
                if fcntl.ioctl(s.fileno(), 0x8927, request)[18:24].hex() == PLAN["mac"]:
                    return name
            except OSError:
                pass
    return None


def family(address):
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def address_of(target):
    """An address as it is; of @NAME, what the gateway's DNS answers."""
    if not target.startswith("@"):
        return target
    name = target[1:]
    labels = b"".join(bytes([len(l)]) + l.encode() for l in name.split("."))
    query = os.urandom(2) + b"\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00" + labels + b"\x00\x00\x01\x00\x01"
    for _ in range(2):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
            s.settimeout(LIMIT)
            s.connect((PLAN["gateway"], 53))
            s.send(query)
            try:
                found = addresses(answer_to(query, s))
            except socket.timeout:
                continue
            if found:
                return found[0]
            break
    raise LookupError(name)


def answer_to(query, s):
    """The answer with the query's number: one to a socket that had this port before may be late."""
    end = time.monotonic() + LIMIT
    while True:
        s.settimeout(max(0.001, end - time.monotonic()))
        message = s.recv(65536)
        if message[:2] == query[:2]:
            return message


def skip_name(message, at):
    while True:
        length = message[at]
        if length >= 192:
            return at + 2
        at += 1 + length
        if length == 0:
            return at


def addresses(message):
    """The IPv4 addresses in an answer."""
    found, (questions, answers) = [], struct.unpack(">HH", message[4:8])
    at = 12
    try:
        for _ in range(questions):
            at = skip_name(message, at) + 4
        for _ in range(answers):
            at = skip_name(message, at)
            kind, _, _, size = struct.unpack(">HHIH", message[at : at + 10])
            at += 10
            if kind == 1 and size == 4:
                found.append(socket.inet_ntoa(message[at : at + 4]))
            at += size
    except (IndexError, struct.error):
        pass
    return found


def report(attempt, line):
    line["id"] = attempt["id"]
    with OUT:
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()


def one(attempt):
    begun = time.monotonic()
    try:
        line = DO[attempt["act"]["do"]](attempt["act"])
    except LookupError as e:
        line = saw("unsent", 0, "no address for %s" % e)
    except OSError as e:
        line = failed(e, 0)
    except Exception as e:  # of an attempt, never of the whole
        line = saw("unable", 0, "%s: %s" % (type(e).__name__, e))
    line["ms"] = int((time.monotonic() - begun) * 1000)
    return line


def main(plan):
    global LIMIT
    PLAN.update(json.loads(base64.b64decode(plan)))
    LIMIT = PLAN["limit"]
    left, done = queue.Queue(), queue.Queue()
    for attempt in PLAN["attempts"]:
        left.put(attempt)

    def work():
        while True:
            try:
                attempt = left.get_nowait()
            except queue.Empty:
                return
            report(attempt, one(attempt))
            done.put(attempt["id"])

    for _ in range(min(PLAN["threads"], len(PLAN["attempts"]))):
        threading.Thread(target=work, daemon=True).start()
    end = time.monotonic() + PLAN["deadline"]
    for _ in PLAN["attempts"]:
        try:
            done.get(timeout=max(0.0, end - time.monotonic()))
        except queue.Empty:
            break
    with OUT:
        sys.stdout.write(json.dumps({"end": True}) + "\n")
        sys.stdout.flush()
        # Threads may hang in what they tried.
        os._exit(0)
