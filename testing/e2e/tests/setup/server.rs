//! A server on loopback that publishes it.

use super::{release::Release, *};

/// What a server answers.
#[derive(Clone)]
pub(super) enum Answer {
    Bytes(Vec<u8>),
    /// To a path of the same server.
    Redirect(&'static str),
    /// Half of it, and then nothing while the client waits.
    Half(Vec<u8>),
}

/// A server on loopback, for as long as the test lives.
pub(super) struct Server {
    pub(super) address: String,
    asked: Arc<Mutex<Vec<String>>>,
    _stop: mpsc::Sender<()>,
}

impl Server {
    pub(super) fn start(answers: HashMap<String, Answer>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (stop, stopped) = mpsc::channel::<()>();
        let stopped = Arc::new(Mutex::new(stopped));
        let (list, base) = (Arc::clone(&asked), address.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (answers, list, base) = (answers.clone(), Arc::clone(&list), base.clone());
                let stopped = Arc::clone(&stopped);
                std::thread::spawn(move || answer(stream, &answers, &list, &base, &stopped));
            }
        });
        Self {
            address,
            asked,
            _stop: stop,
        }
    }

    /// One that publishes a release as the project does: what is asked for is somewhere else.
    pub(super) fn publishing(release: &Release, archive: Answer, digest: &str) -> Self {
        let path = format!("/fc/v{}/{}", release.version, release.name());
        let sums = format!("{digest}  {}\n", release.name());
        Self::start(HashMap::from([
            (format!("{path}.sha256.txt"), Answer::Bytes(sums.into_bytes())),
            (path, Answer::Redirect("/elsewhere?signature=secret")),
            ("/elsewhere?signature=secret".to_owned(), archive),
        ]))
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}/fc", self.address)
    }

    pub(super) fn asked(&self) -> Vec<String> {
        self.asked.lock().expect("no panic").clone()
    }
}

fn answer(
    mut stream: TcpStream,
    answers: &HashMap<String, Answer>,
    asked: &Mutex<Vec<String>>,
    base: &str,
    stopped: &Mutex<mpsc::Receiver<()>>,
) {
    let mut reader = BufReader::new(stream.try_clone().expect("a second handle"));
    let mut first = String::new();
    if reader.read_line(&mut first).is_err() {
        return;
    }
    let mut line = String::new();
    while reader.read_line(&mut line).is_ok_and(|n| n > 2) {
        line.clear();
    }
    let target = first.split_whitespace().nth(1).unwrap_or_default().to_owned();
    asked.lock().expect("no panic").push(target.clone());
    // A proxy is asked for the whole address.
    let path = target.strip_prefix("http://").map_or(target.as_str(), |rest| {
        rest.find('/').map_or("/", |at| &rest[at..])
    });
    let head = |status: &str, more: &str, length: usize| {
        format!("HTTP/1.1 {status}\r\nConnection: close\r\n{more}Content-Length: {length}\r\n\r\n")
    };
    let _ = match answers.get(path) {
        None => stream.write_all(head("404 Not Found", "", 0).as_bytes()),
        Some(Answer::Bytes(bytes)) => stream
            .write_all(head("200 OK", "", bytes.len()).as_bytes())
            .and_then(|()| stream.write_all(bytes)),
        Some(Answer::Redirect(to)) => {
            let host = match target.starts_with("http://") {
                true => "mirror.invalid",
                false => base,
            };
            let more = format!("Location: http://{host}{to}\r\n");
            stream.write_all(head("302 Found", &more, 0).as_bytes())
        }
        Some(Answer::Half(bytes)) => {
            let sent = stream
                .write_all(head("200 OK", "", bytes.len()).as_bytes())
                .and_then(|()| stream.write_all(&bytes[..bytes.len() / 2]))
                .and_then(|()| stream.flush());
            // Until the test is over.
            let _ = stopped.lock().expect("no panic").recv();
            sent
        }
    };
}
