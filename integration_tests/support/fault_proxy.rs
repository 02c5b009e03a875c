//! A proxy between the program and an S3 server that does to requests what bad networks and busy servers do.
//!
//! It passes on HTTP/1.1, one request a connection. Which requests are hit is decided by their number, so that a run
//! can be repeated.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::time::sleep;

/// What happens to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The server says that it is busy, and has not looked at the request.
    SlowDown,
    /// The connection is reset before the request has arrived.
    ResetBefore,
    /// The connection is reset while the body of the request is under way.
    ResetWithin,
    /// The request is done, and the connection is reset before the answer.
    ResetAfter,
    /// The request is done, and the connection is closed in good order before the answer.
    ClosedBeforeAnswer,
    /// The answer ends in the middle.
    CutShort,
    /// A bit of the answer's body is another.
    FlippedInAnswer,
    /// A bit of the request's body is another.
    FlippedInRequest,
}

/// What the proxy does.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Weather {
    /// Every so manieth request is hit by this fault.
    pub(crate) fault: Option<(u64, Fault)>,
    /// So long everything takes in each direction.
    pub(crate) latency: Duration,
}

/// A proxy on a port of this machine, which runs until it is dropped.
pub(crate) struct FaultProxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    upstream: String,
    weather: Mutex<Weather>,
    requests: AtomicU64,
    hit: AtomicU64,
    /// False while the server seems to be gone, none when the proxy shall end.
    is_there: watch::Sender<Option<bool>>,
}

impl FaultProxy {
    /// Starts a proxy in front of a server, given as `http://host:port`.
    pub(crate) fn start(upstream: &str) -> Self {
        let upstream = upstream.strip_prefix("http://").unwrap().to_owned();
        let (is_there, _) = watch::channel(Some(true));
        let shared = Arc::new(Shared {
            upstream,
            weather: Mutex::default(),
            requests: AtomicU64::new(0),
            hit: AtomicU64::new(0),
            is_there,
        });
        let (sender, receiver) = std::sync::mpsc::channel();
        let in_thread = Arc::clone(&shared);
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(run(in_thread, |address| sender.send(address).unwrap()));
        });
        Self { address: receiver.recv().unwrap(), shared }
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From now on requests are treated like this; counts them anew.
    pub(crate) fn set(&self, weather: Weather) {
        *self.shared.weather.lock().unwrap() = weather;
        self.shared.requests.store(0, Ordering::SeqCst);
        self.shared.hit.store(0, Ordering::SeqCst);
    }

    /// Lets the server seem to be gone, or there again.
    pub(crate) fn set_gone(&self, gone: bool) {
        self.shared.is_there.send_replace(Some(!gone));
    }

    /// How many requests have come, and how many of them were hit.
    pub(crate) fn counts(&self) -> (u64, u64) {
        (self.shared.requests.load(Ordering::SeqCst), self.shared.hit.load(Ordering::SeqCst))
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.shared.is_there.send_replace(None);
    }
}

impl Shared {
    /// The fault of the request that has just come, if it is hit.
    fn next(&self) -> (Duration, Option<Fault>) {
        let number = self.requests.fetch_add(1, Ordering::SeqCst) + 1;
        let weather = *self.weather.lock().unwrap();
        let fault = weather.fault.filter(|(every, _)| number.is_multiple_of(*every)).map(|(_, fault)| fault);
        (weather.latency, fault)
    }
}

async fn run(shared: Arc<Shared>, started: impl FnOnce(SocketAddr)) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    started(address);
    let mut is_there = shared.is_there.subscribe();
    let mut listener = Some(listener);
    loop {
        match &listener {
            Some(listening) => tokio::select! {
                changed = is_there.changed() => changed.unwrap(),
                accepted = listening.accept() => {
                    let (client, _) = accepted.unwrap();
                    let (shared, is_there) = (Arc::clone(&shared), is_there.clone());
                    tokio::spawn(async move { drop(serve(client, &shared, is_there).await) });
                }
            },
            None => is_there.changed().await.unwrap(),
        }
        let state = *is_there.borrow_and_update();
        match state {
            None => return,
            Some(false) => listener = None,
            Some(true) if listener.is_none() => listener = Some(bind_again(address)),
            Some(true) => {}
        }
    }
}

fn bind_again(address: SocketAddr) -> TcpListener {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind(address).unwrap();
    socket.listen(64).unwrap()
}

/// Serves one connection until it is done, or the server is gone.
async fn serve(mut client: TcpStream, shared: &Shared, mut is_there: watch::Receiver<Option<bool>>) -> io::Result<()> {
    tokio::select! {
        served = pass_on(&mut client, shared) => return served,
        _ = is_there.wait_for(|there| *there != Some(true)) => {}
    }
    reset(&client)
}

/// Has a connection end so that the other side sees an error, once it is dropped.
fn reset(stream: &TcpStream) -> io::Result<()> {
    stream.set_zero_linger()
}

/// The beginning of a request or an answer, and what came with it.
struct Head {
    text: String,
    rest: Vec<u8>,
}

impl Head {
    async fn read(stream: &mut TcpStream) -> io::Result<Self> {
        let mut bytes = Vec::new();
        loop {
            if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
                let rest = bytes.split_off(end + 4);
                return Ok(Self { text: String::from_utf8_lossy(&bytes).into_owned(), rest });
            }
            if stream.read_buf(&mut bytes).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    fn content_length(&self) -> usize {
        let lengths = self.text.lines().filter_map(|line| line.split_once(':'));
        let mut lengths = lengths.filter(|(name, _)| name.eq_ignore_ascii_case("content-length"));
        lengths.next().map_or(0, |(_, length)| length.trim().parse().unwrap())
    }

    /// The same, with the wish that the connection be closed afterwards.
    fn closing(&self) -> String {
        let lines = self.text.trim_end().split("\r\n");
        let kept = lines.filter(|line| !line.to_ascii_lowercase().starts_with("connection:"));
        kept.chain(["Connection: close", "", ""]).collect::<Vec<_>>().join("\r\n")
    }
}

async fn pass_on(client: &mut TcpStream, shared: &Shared) -> io::Result<()> {
    client.set_nodelay(true)?;
    let request = Head::read(client).await?;
    let (latency, mut fault) = shared.next();
    let mut body = request.rest.clone();
    let body_bytes = request.content_length();
    // What cannot be flipped or cut is let through; it does not count as hit.
    if body_bytes == 0 && matches!(fault, Some(Fault::FlippedInRequest | Fault::ResetWithin)) {
        fault = None;
    }
    sleep(latency).await;
    if fault == Some(Fault::ResetBefore) {
        shared.hit.fetch_add(1, Ordering::SeqCst);
        return reset(client);
    }
    read_up_to(client, &mut body, body_bytes).await?;
    if fault == Some(Fault::SlowDown) {
        shared.hit.fetch_add(1, Ordering::SeqCst);
        return answer_slow_down(client).await;
    }
    let mut server = TcpStream::connect(&shared.upstream).await?;
    server.set_nodelay(true)?;
    server.write_all(request.closing().as_bytes()).await?;
    if fault == Some(Fault::ResetWithin) {
        shared.hit.fetch_add(1, Ordering::SeqCst);
        server.write_all(&body[..body_bytes / 2]).await?;
        reset(&server)?;
        return reset(client);
    }
    if fault == Some(Fault::FlippedInRequest) {
        shared.hit.fetch_add(1, Ordering::SeqCst);
        body[body_bytes / 2] ^= 4;
    }
    server.write_all(&body).await?;
    let mut answer = Vec::new();
    server.read_to_end(&mut answer).await?;
    sleep(latency).await;
    give_answer(client, answer, fault, shared).await
}

async fn give_answer(
    client: &mut TcpStream,
    mut answer: Vec<u8>,
    fault: Option<Fault>,
    shared: &Shared,
) -> io::Result<()> {
    let body_start = answer.windows(4).position(|window| window == b"\r\n\r\n").map_or(answer.len(), |end| end + 4);
    let middle = body_start.midpoint(answer.len());
    let has_body = body_start < answer.len();
    match fault {
        Some(Fault::ResetAfter) => {
            shared.hit.fetch_add(1, Ordering::SeqCst);
            return reset(client);
        }
        Some(Fault::ClosedBeforeAnswer) => {
            shared.hit.fetch_add(1, Ordering::SeqCst);
            answer.clear();
        }
        Some(Fault::CutShort) if has_body => {
            shared.hit.fetch_add(1, Ordering::SeqCst);
            answer.truncate(middle);
        }
        Some(Fault::FlippedInAnswer) if has_body => {
            shared.hit.fetch_add(1, Ordering::SeqCst);
            answer[middle] ^= 4;
        }
        _ => {}
    }
    client.write_all(&answer).await?;
    client.shutdown().await
}

async fn read_up_to(client: &mut TcpStream, body: &mut Vec<u8>, bytes: usize) -> io::Result<()> {
    body.reserve(bytes.saturating_sub(body.len()));
    while body.len() < bytes {
        if client.read_buf(body).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(())
}

async fn answer_slow_down(client: &mut TcpStream) -> io::Result<()> {
    let body = "<?xml version=\"1.0\"?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>";
    let head = format!(
        "HTTP/1.1 503 Slow Down\r\nContent-Type: application/xml\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    client.write_all(head.as_bytes()).await?;
    client.write_all(body.as_bytes()).await?;
    client.shutdown().await
}
