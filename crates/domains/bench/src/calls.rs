//! Figures of what runs in a sandbox that is there already, and of whole tool calls.

use crate::{
    BenchError, Figure, Floor, Samples, Setup,
    boots::{BenchDisk, finish, shell_true},
    floor::ANSWER_LIMIT,
};
use omnirun_guest_client::ExecEvent;
use omnirun_guest_proto::message::Exec;
use omnirun_ids::{ApiId, SessionKey};
use omnirun_redact::Guest;
use omnirun_sandboxes::{Begun, First, Sandbox};
use omnirun_sessions::{
    EnginePlatform, HandsFactory, Isolation, Release, SessionFactory, SessionsConfig, ToolCall,
};
use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio_util::sync::CancellationToken;

/// Bytes of one throughput sample. Under emulation some 20 MiB/s go through.
const STREAM: u64 = 32 << 20;
/// Samples of a throughput.
const STREAMS: usize = 5;
/// Tool calls in mode `session` are quick.
const SESSION_CALLS: usize = 50;

/// Takes the figures; ours and the floor's in turn.
///
/// # Errors
/// [`BenchError`].
pub async fn calls(setup: &Setup, floor: &Floor) -> Result<Vec<Figure>, BenchError> {
    let disk = BenchDisk::new(setup, "floor.disk")?;
    let mut vm = floor.clone_vm().await?;
    let (file, bytes) = disk.open()?;
    vm.attach(file, bytes).await?;
    vm.ask("mount", "ok").await?;
    let our_disk = BenchDisk::new(setup, "ours.disk")?;
    let sandbox = setup.engine.create(setup.spec()).await?;
    let (_, begun) = sandbox
        .claim_with(our_disk.claim()?, First::Exec(shell_true()))
        .await?;
    finish(begun).await?;

    let mut figures = Vec::new();
    (setup.say)("exec round trip");
    let (mut ours, mut least) = (Samples::default(), Samples::default());
    for _ in 0..setup.rounds {
        let start = Instant::now();
        vm.ask("run", "exit 0").await?;
        least.push_ms(start.elapsed());
        let start = Instant::now();
        finish(Begun::Exec(sandbox.guest().exec(shell_true()).await?)).await?;
        ours.push_ms(start.elapsed());
    }
    figures.push(Figure::time("exec_round_trip", &ours, Some(&least)));

    (setup.say)("throughput");
    let (mut out, mut write, mut read, mut least) = (
        Samples::default(),
        Samples::default(),
        Samples::default(),
        Samples::default(),
    );
    for _ in 0..STREAMS {
        let start = Instant::now();
        vm.output(STREAM).await?;
        least.push(rate(start));
        let start = Instant::now();
        stdout(&sandbox).await?;
        out.push(rate(start));
        let start = Instant::now();
        let mut zeros = tokio::io::AsyncReadExt::take(tokio::io::repeat(0), STREAM);
        sandbox
            .guest()
            .write_file("/workspace/stream", 0, false, &mut zeros)
            .await?;
        write.push(rate(start));
        let start = Instant::now();
        sandbox
            .guest()
            .read_file("/workspace/stream", 0, 0)?
            .copy_to(&mut tokio::io::sink())
            .await?;
        read.push(rate(start));
    }
    figures.push(Figure::throughput("stdout_throughput", &out, Some(&least)));
    figures.push(Figure::throughput("file_write_throughput", &write, Some(&least)));
    figures.push(Figure::throughput("file_read_throughput", &read, Some(&least)));
    vm.end().await?;
    sandbox.kill().await;

    (setup.say)("tool calls");
    figures.push(tool_calls(setup, Isolation::Call, setup.rounds, "tool_call_mode_call").await?);
    figures.push(tool_calls(setup, Isolation::Session, SESSION_CALLS, "tool_call_mode_session").await?);
    Ok(figures)
}

fn rate(start: Instant) -> f64 {
    STREAM as f64 / (1u64 << 20) as f64 / start.elapsed().as_secs_f64()
}

async fn stdout(sandbox: &Sandbox) -> Result<(), BenchError> {
    let argv = [
        b"head".to_vec(),
        b"-c".to_vec(),
        STREAM.to_string().into_bytes(),
        b"/dev/zero".to_vec(),
    ];
    let mut exec = sandbox
        .guest()
        .exec(Exec {
            argv: argv.to_vec(),
            ..Exec::default()
        })
        .await?;
    let mut seen = 0;
    while let Some(event) = exec.next().await {
        if let ExecEvent::Stdout(bytes) = event {
            seen += bytes.len() as u64;
        }
    }
    exec.wait().await?;
    if seen == STREAM {
        Ok(())
    } else {
        Err(BenchError::Command(format!("{seen} bytes of output")))
    }
}

/// Whole calls, from the worker's order to the recorded result, as often as the model would wait for them: the next
/// clone is made while the result travels.
async fn tool_calls(
    setup: &Setup,
    isolation: Isolation,
    rounds: usize,
    name: &'static str,
) -> Result<Figure, BenchError> {
    let config = SessionsConfig {
        isolation,
        size: setup.size,
        disk: setup.disk(),
        // A bench that is killed leaves none for a week.
        keep: Duration::ZERO,
        ..SessionsConfig::new(setup.image.template.name.clone())
    };
    let platform = Arc::new(EnginePlatform::new(setup.engine.clone(), setup.images.clone()));
    let factory = SessionFactory::new(config, platform, setup.engine.db(), setup.engine.data())
        .map_err(|error| BenchError::Sessions(Box::new(error)))?;
    let key = SessionKey {
        origin: "bench:".to_owned(),
        environment: "env_bench".parse()?,
        session: format!("sesn_bench{}", std::process::id()).parse()?,
    };
    let mut hands = factory.open(&key, &BTreeMap::new()).await?;
    let mut samples = Samples::default();
    for round in 0..=rounds {
        let id: ApiId = format!("sevt_bench{round}").parse()?;
        let call = ToolCall {
            id,
            name: "bash".to_owned(),
            input: Guest(r#"{"command":"true"}"#.to_owned()),
        };
        let start = Instant::now();
        let outcome = hands.call(&call, CancellationToken::new()).await?;
        let took = start.elapsed();
        if outcome.is_error {
            return Err(BenchError::Command(format!(
                "an error result: {}",
                outcome.content_json()
            )));
        }
        // The first call has no clone waiting for it.
        if round > 0 {
            samples.push_ms(took);
        }
        hands.posted(&call.id).await?;
        if isolation == Isolation::Call {
            await_spare(setup).await?;
        }
    }
    hands.close(Release::Remove).await?;
    Ok(Figure::time(name, &samples, None))
}

/// Waits for the clone that is made while the model thinks. Not measured, so looking now and then is good enough.
async fn await_spare(setup: &Setup) -> Result<(), BenchError> {
    let wait = async {
        while setup.engine.spares() == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(ANSWER_LIMIT, wait)
        .await
        .map_err(|_| BenchError::Command("no spare clone in time".to_owned()))
}
