//! One request.

use super::{
    Came, Connection,
    body::Metered,
    server::{Server, Unsent},
    tunnel,
};
use crate::child::{
    dial::{self, NoDial},
    flow::{Flow, Subject},
    meter::Way,
    transparent::{failed, unless_cut},
};
use bytes::Bytes;
use http_body_util::{Either, Full};
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode, Uri, Version,
    body::Incoming,
    header::{CONNECTION, CONTENT_TYPE, HOST, HeaderValue, TRANSFER_ENCODING, UPGRADE},
    http::request::Parts,
    upgrade::OnUpgrade,
};
use omnirun_egress_policy::{Protocol, Reason};
use omnirun_egress_wire::{
    Host,
    http::{self, Form, Target},
};
use std::{
    net::{IpAddr, SocketAddrV4},
    sync::Arc,
    time::Duration,
};
use tokio::{net::TcpStream, time::timeout};

/// What a guest is answered with.
pub(super) type Answer = Response<Either<Metered, Full<Bytes>>>;

/// Answers a request: with the server's answer, or with why there is none.
pub(super) async fn answer(connection: &Arc<Connection>, mut request: Request<Incoming>) -> Answer {
    let mut flow = connection.flow().await;
    // Taken out, so that it is not the server's connection that is upgraded by it.
    let upgrade = hyper::upgrade::on(&mut request);
    let (parts, body) = request.into_parts();
    let target = match http::target(&parts, connection.came.carrier()) {
        Ok(target) => target,
        Err(bad) => {
            if let Some(to) = connection.came.to() {
                flow.aims(to.port());
            }
            flow.refuse(Reason::Malformed);
            let mut answer = say(StatusCode::BAD_REQUEST, format!("the request is refused: {bad}"));
            // What follows it may be anything.
            answer
                .headers_mut()
                .insert(CONNECTION, HeaderValue::from_static("close"));
            return answer;
        }
    };
    flow.aims(target.port);
    if target.form == Form::Authority {
        flow.is(Protocol::Connect);
    }
    let subject = match subject(&target, connection.came) {
        Ok(subject) => subject,
        Err(why) => {
            flow.refuse(why);
            return refused(&target, why);
        }
    };
    if let Err(why) = flow.admit(subject.clone()) {
        return refused(&target, why);
    }
    match target.form {
        Form::Authority => tunnel::connect(connection, flow, upgrade, &target, subject).await,
        _ => pass_on(connection, flow, parts, body, upgrade, &target, &subject).await,
    }
}

/// Where a request wants to go, for the policy.
fn subject(target: &Target, came: Came) -> Result<Subject, Reason> {
    match (&target.host, came) {
        (Host::Name(name), _) => Ok(Subject::Name(name.clone(), target.port)),
        // Whoever names an address can mean only the one that it connected to.
        (Host::Address(IpAddr::V4(address)), Came::Redirected(to)) if address == to.ip() => {
            Ok(Subject::Unnamed(to))
        }
        (Host::Address(IpAddr::V4(address)), Came::Explicit) => {
            Ok(Subject::Unnamed(SocketAddrV4::new(*address, target.port)))
        }
        (Host::Address(IpAddr::V6(_)), Came::Explicit) => Err(Reason::NoAddress),
        _ => Err(Reason::NoName),
    }
}

/// Dials where a request was let through to.
pub(super) async fn dial(flow: &Flow, subject: &Subject, came: Came) -> Result<TcpStream, NoDial> {
    let dialled = unless_cut(flow, async {
        match subject {
            Subject::Name(name, port) => {
                let chosen = came.to().map(|to| *to.ip());
                dial::name(flow, name, *port, chosen).await
            }
            Subject::Address(to) | Subject::Unnamed(to) => dial::address(flow, *to).await,
        }
    })
    .await;
    if let Err(why) = &dialled {
        failed(flow, *why);
    }
    dialled
}

async fn pass_on(
    connection: &Arc<Connection>,
    mut flow: Flow,
    mut parts: Parts,
    body: Incoming,
    upgrade: OnUpgrade,
    target: &Target,
    subject: &Subject,
) -> Answer {
    let came = connection.came;
    let to = (target.host.clone(), target.port);
    // Its place is empty until it is put back: by then the answer has begun.
    let mut kept = connection.take_server();
    let usable = match &mut kept {
        Some(server) => server.serves(&to).await,
        None => false,
    };
    let (mut server, mut is_new) = match kept.filter(|_| usable) {
        Some(server) => {
            if let Some(address) = server.address {
                flow.dials(address);
            }
            (server, false)
        }
        None => match reach(&mut flow, subject, came, &to).await {
            Ok(server) => (server, true),
            Err(why) => return unreachable(target, why),
        },
    };
    let upgrades_to = upgrade_of(&parts);
    rewrite(&mut parts, target, upgrades_to.as_ref());
    let head = head_size(&parts.headers) + parts.uri.path_and_query().map_or(0, |p| p.as_str().len() as u64);
    if flow.left(Way::Up).is_some_and(|left| left < head) {
        flow.note(Reason::Limit);
        let text = format!("no bytes are left for {}", target.host);
        return say(StatusCode::FORBIDDEN, text);
    }
    flow.spend(Way::Up, head);
    let flow = Arc::new(flow);
    let mut request = Request::from_parts(parts, Metered::new(body, Way::Up, Arc::clone(&flow)));
    let patience = Duration::from_secs(flow.guest().caps.idle_seconds.into());
    let response = loop {
        let sent = tokio::select! {
            sent = timeout(patience, server.send(request)) => sent,
            () = flow.cut() => return refused(target, Reason::Changed),
        };
        match sent {
            Ok(Ok(response)) => break response,
            // A connection that was kept had been closed, and the server knows nothing of this request.
            Ok(Err(Unsent::Back(back))) if !is_new => {
                request = *back;
                match reach_again(&flow, subject, came, &to).await {
                    Ok(other) => (server, is_new) = (other, true),
                    Err(why) => return unreachable(target, why),
                }
            }
            Ok(Err(_)) => {
                flow.note(Reason::Unreachable);
                return unreachable(target, NoDial::Unreachable);
            }
            Err(_) => {
                flow.note(Reason::TimedOut);
                return unreachable(target, NoDial::Late);
            }
        }
    };
    respond(
        connection,
        flow,
        server,
        response,
        upgrades_to.map(|_| upgrade),
        target,
    )
}

/// Connects to the server.
async fn reach(flow: &mut Flow, subject: &Subject, came: Came, to: &(Host, u16)) -> Result<Server, NoDial> {
    flow.sets_up().await;
    let reached = reach_again(flow, subject, came, to).await;
    flow.is_set_up();
    reached
}

async fn reach_again(flow: &Flow, subject: &Subject, came: Came, to: &(Host, u16)) -> Result<Server, NoDial> {
    let stream = dial(flow, subject, came).await?;
    Server::new(flow.guest(), to.clone(), stream).await
}

/// The protocol that a request offers to go on with.
fn upgrade_of(parts: &Parts) -> Option<HeaderValue> {
    let asks = parts.headers.get_all(CONNECTION).iter().any(|value| {
        let mut members = value.as_bytes().split(|byte| *byte == b',');
        members.any(|member| member.trim_ascii().eq_ignore_ascii_case(b"upgrade"))
    });
    let mut offers = parts.headers.get_all(UPGRADE).iter();
    match (offers.next(), offers.next()) {
        (Some(one), None) if asks && parts.version == Version::HTTP_11 && parts.method == Method::GET => {
            Some(one.clone())
        }
        _ => None,
    }
}

/// Makes it the request that was decided on.
fn rewrite(parts: &mut Parts, target: &Target, upgrade: Option<&HeaderValue>) {
    http::strip_hop_by_hop(&mut parts.headers);
    // How it is framed is hyper's to say.
    parts.headers.remove(TRANSFER_ENCODING);
    if let Some(upgrade) = upgrade {
        set_upgrade(&mut parts.headers, upgrade);
    }
    // A name or an address, and a port: nothing that a field could not have.
    if let Ok(host) = HeaderValue::try_from(target.host_value()) {
        parts.headers.insert(HOST, host);
    }
    parts.uri = match parts.uri.path_and_query() {
        Some(path) => Uri::from(path.clone()),
        None => Uri::from_static("/"),
    };
    parts.version = Version::HTTP_11;
    parts.extensions.clear();
}

fn set_upgrade(headers: &mut HeaderMap, upgrade: &HeaderValue) {
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, upgrade.clone());
}

/// About what a head takes on the wire.
fn head_size(headers: &HeaderMap) -> u64 {
    let fields = headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + 4);
    fields.sum::<usize>() as u64 + 32
}

/// Passes the server's answer on.
fn respond(
    connection: &Connection,
    flow: Arc<Flow>,
    server: Server,
    mut response: Response<Incoming>,
    upgrade: Option<OnUpgrade>,
    target: &Target,
) -> Answer {
    let to_what = response.headers().get(UPGRADE).cloned();
    let switches = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    let servers = hyper::upgrade::on(&mut response);
    let (mut parts, body) = response.into_parts();
    http::strip_hop_by_hop(&mut parts.headers);
    parts.headers.remove(TRANSFER_ENCODING);
    parts.extensions.clear();
    flow.spend(Way::Down, head_size(&parts.headers));
    match (switches, upgrade, to_what) {
        (false, ..) => {
            connection.keep_server(server);
            Response::from_parts(parts, Either::Left(Metered::new(body, Way::Down, flow)))
        }
        (true, Some(guests), Some(what)) => {
            set_upgrade(&mut parts.headers, &what);
            tunnel::upgraded(connection, flow, guests, servers, server);
            Response::from_parts(parts, Either::Right(Full::default()))
        }
        // To something that was not offered.
        (true, ..) => {
            flow.note(Reason::Unreachable);
            unreachable(target, NoDial::Unreachable)
        }
    }
}

/// A short text of the proxy's own.
pub(super) fn say(status: StatusCode, text: String) -> Answer {
    let text = format!("egress policy: {text}\n");
    let mut answer = Response::new(Either::Right(Full::from(text)));
    *answer.status_mut() = status;
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    answer.headers_mut().insert(CONTENT_TYPE, plain);
    answer
}

/// Why it is not let through.
pub(super) fn refused(target: &Target, why: Reason) -> Answer {
    let (host, port) = (&target.host, target.port);
    let text = match why {
        Reason::NotListed => format!("{host} is not listed"),
        Reason::PortNotListed => format!("{host} is not listed for port {port}"),
        Reason::Denied => format!("{host} is denied"),
        Reason::NoName => format!("{host} is an address, and it is not listed"),
        Reason::SpecialAddress => format!("{host} is an address of a special purpose"),
        Reason::Limit => format!("no connections are left for {host}"),
        Reason::Changed => format!("{host} is not allowed any more"),
        why => format!("{host} is refused: {why}"),
    };
    say(StatusCode::FORBIDDEN, text)
}

/// Why it is not reached.
pub(super) fn unreachable(target: &Target, why: NoDial) -> Answer {
    let host = &target.host;
    match why {
        NoDial::NoAddress => say(StatusCode::BAD_GATEWAY, format!("{host} has no address")),
        NoDial::Unresolved => say(StatusCode::BAD_GATEWAY, format!("{host} could not be resolved")),
        NoDial::Unreachable => say(StatusCode::BAD_GATEWAY, format!("{host} does not answer")),
        NoDial::Late => say(
            StatusCode::GATEWAY_TIMEOUT,
            format!("{host} does not answer in time"),
        ),
        NoDial::Forbidden => say(
            StatusCode::FORBIDDEN,
            format!("{host} has no address that may be reached"),
        ),
    }
}
