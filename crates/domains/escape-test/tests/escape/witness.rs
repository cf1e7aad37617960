//! The witnesses themselves: what gets out is seen, whatever the guest says; and without a guest's word nothing is green.

use std::{collections::HashMap, net::UdpSocket, sync::Arc};

use async_trait::async_trait;
use base64::{Engine, engine::general_purpose::STANDARD};
use omnirun_escape_test::{
    Attacker, AttackerError, Outcome,
    capture::{Capture, CaptureError, Place, Wanted},
    judge::Verdict,
    lab::Lab,
};
use omnirun_sys::host::net;
use serde_json::Value;
use tokio::sync::mpsc;

use crate::play::without_card;

/// Says that all went as it should, and meanwhile sends the nonce of one attempt by another way.
struct Liar;

#[async_trait]
impl Attacker for Liar {
    async fn run(&self, script: &[u8], _: u32, said: mpsc::Sender<Vec<u8>>) -> Result<(), AttackerError> {
        let script = String::from_utf8(script.to_vec()).unwrap();
        let plan = script.rsplit_once("main(\"").unwrap().1;
        let plan = STANDARD
            .decode(plan.trim_end().trim_end_matches("\")").trim())
            .unwrap();
        let plan: Value = serde_json::from_slice(&plan).unwrap();
        for attempt in plan["attempts"].as_array().unwrap() {
            if attempt["id"] == "no-frame" {
                let nonce = hex::decode(attempt["act"]["nonce"].as_str().unwrap()).unwrap();
                let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
                socket.send_to(&nonce, "9.9.9.9:53").unwrap();
            }
            let line = format!("{{\"id\":{},\"saw\":\"silent\",\"sent\":1}}\n", attempt["id"]);
            said.send(line.into_bytes()).await.unwrap();
        }
        Ok(())
    }
}

/// Says nothing at all.
struct Silent;

#[async_trait]
impl Attacker for Silent {
    async fn run(&self, _: &[u8], _: u32, _: mpsc::Sender<Vec<u8>>) -> Result<(), AttackerError> {
        Ok(())
    }
}

async fn run(lab: &Lab, attacker: &dyn Attacker) -> (Outcome, HashMap<String, Verdict>) {
    let report = without_card(lab, attacker).await;
    let verdicts = report
        .attempts
        .into_iter()
        .map(|row| (row.id, row.verdict))
        .collect();
    (report.outcome, verdicts)
}

/// One packet that gets out makes the whole red, and it is known whose it was.
pub async fn planted(lab: &Lab) {
    let (outcome, verdicts) = run(lab, &Liar).await;
    assert_eq!(outcome, Outcome::Red);
    for (id, verdict) in verdicts {
        let expected = if id == "no-frame" {
            Verdict::Leaked
        } else {
            Verdict::Passed
        };
        assert_eq!(verdict, expected, "{id}");
    }
}

/// A guest that says nothing, and a capture that sees nothing, are no proof of anything.
pub async fn deaf_and_dumb(lab: &Lab) {
    let (outcome, verdicts) = run(lab, &Silent).await;
    assert_eq!(outcome, Outcome::Inconclusive);
    assert!(verdicts.values().all(|verdict| *verdict == Verdict::Inconclusive));

    // Its loopback is down, so nothing can be planted there.
    let dead = net::in_new_namespace(net::namespace).unwrap();
    let place = Place {
        name: "dead".to_owned(),
        namespace: Arc::new(dead),
        threshold: None,
    };
    let wanted = Wanted {
        nonces: Vec::new(),
        tuples: Vec::new(),
        addresses: Vec::new(),
        hardware: Vec::new(),
    };
    let capture = Capture::begin(&[place], &wanted).unwrap();
    let outcome = capture.prove();
    assert!(
        matches!(
            outcome,
            Err(CaptureError::Plant { .. } | CaptureError::Blind { .. })
        ),
        "{outcome:?}"
    );
}
