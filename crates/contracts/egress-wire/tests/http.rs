//! Decisions on heads.

use omnirun_egress_wire::http::{BadTarget, Carrier, Form, Head, Target, head};

const TRANSPARENT: Carrier = Carrier::Transparent { port: 80 };

fn read(carrier: Carrier, text: &str) -> Result<(String, u16, Form), BadTarget> {
    match head(format!("{text}\r\n\r\n").as_bytes(), carrier) {
        Head::Found {
            target: Target { host, port, form },
            ..
        } => Ok((host.to_string(), port, form)),
        Head::Bad(bad) => Err(bad),
        Head::NeedMore => panic!("not whole: {text}"),
    }
}

fn ok(host: &str, port: u16, form: Form) -> Result<(String, u16, Form), BadTarget> {
    Ok((host.to_owned(), port, form))
}

#[test]
fn origin_form_goes_by_host() {
    let at = |text: &str| read(TRANSPARENT, text);
    let found = ok("example.com", 80, Form::Origin);
    assert_eq!(at("GET / HTTP/1.1\r\nHost: example.com"), found);
    assert_eq!(at("GET / HTTP/1.1\r\nHost: EXAMPLE.com:80"), found);
    assert_eq!(at("OPTIONS * HTTP/1.1\r\nHost: example.com"), found);
    assert_eq!(at("GET / HTTP/1.0\r\nHost: example.com"), found);
    assert_eq!(
        at("GET / HTTP/1.1\r\nHost: example.com:81"),
        Err(BadTarget::Disagree)
    );
    assert_eq!(at("GET / HTTP/1.1"), Err(BadTarget::NoHost));
    assert_eq!(at("GET / HTTP/1.0"), Err(BadTarget::NoHost));
    assert_eq!(at("GET * HTTP/1.1\r\nHost: a"), Err(BadTarget::Form));
}
