//! Streams, consumers and create-only messages on a real server.

use std::{os::unix::fs::PermissionsExt, path::Path};

use bytes::Bytes;
use pipeline::{
    Error,
    publish::{self, Created},
    server::{Server, ServerSettings},
    streams::{self, Pace, StreamSettings},
    subjects, tail,
};
use schemas::names::{ORCHESTRATOR, Phase};

use crate::server::{connect, crash, private, program};

#[tokio::test(flavor = "multi_thread")]
async fn setting_up_twice_changes_nothing() {
    let private = private().await;
    let connection = &private.connection;
    publish::create(connection, "rounds.job.j.end", Bytes::from_static(b"{}"))
        .await
        .unwrap();
    streams::set_up(connection, &StreamSettings::default())
        .await
        .unwrap();
    for site in ["a", ORCHESTRATOR] {
        streams::set_up_site(connection, site, Pace::default())
            .await
            .unwrap();
        streams::set_up_site(connection, site, Pace::default())
            .await
            .unwrap();
    }
    let stored = tail::read_all(connection, streams::JOBS, ">").await.unwrap();
    assert_eq!(stored.len(), 1);
    let metrics = pipeline::metrics::Metrics::new();
    metrics.read_queues(connection).await.unwrap();
    let text = metrics.text();
    for (site, phase) in [
        ("a", Phase::TrainRound),
        ("a", Phase::Infer),
        (ORCHESTRATOR, Phase::Average),
    ] {
        let line = format!("rounds_queue_pending_messages{{phase=\"{phase}\",site=\"{site}\"}} 0");
        assert!(text.contains(&line), "{text}");
    }
    assert!(!text.contains("phase=\"average\",site=\"a\""));
}

/// A server that promises `room` at its next start.
fn with_room(script: &Path, room: &str) {
    let text = format!(
        "#!/bin/sh\nsed -i 's/sync_interval:/max_file_store: {room}, sync_interval:/' \"$2\"\nexec {} \"$@\"\n",
        program().display()
    );
    // Whole or not at all: the server's keeper may start it at any time.
    let made = script.with_extension("made");
    std::fs::write(&made, text).unwrap();
    std::fs::set_permissions(&made, std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::rename(&made, script).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_stay_on_a_server_that_has_less_room_than_before() {
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("nats-server");
    with_room(&script, "1G");
    let settings = ServerSettings {
        program: script.clone(),
        ..ServerSettings::new(folder.path().join("nats"))
    };
    let server = tokio::task::spawn_blocking(move || Server::start(&settings).unwrap());
    let server = server.await.unwrap();
    let connection = connect(&server.access()).await;
    let settings = StreamSettings::default();
    streams::set_up(&connection, &settings).await.unwrap();
    let subject = "rounds.job.j.end";
    publish::create(&connection, subject, Bytes::from_static(b"{}"))
        .await
        .unwrap();

    with_room(&script, "100M");
    crash(&server).await;
    streams::set_up(&connection, &settings).await.unwrap();
    let stored = tail::read_all(&connection, streams::JOBS, ">").await.unwrap();
    assert_eq!(stored.len(), 1);
    let again = publish::create(&connection, subject, Bytes::from_static(b"{}")).await;
    assert_eq!(again.unwrap(), Created::Exists);
    let other = publish::create(&connection, "rounds.job.k.end", Bytes::from_static(b"{}")).await;
    assert_eq!(other.unwrap(), Created::New);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_is_created_once_also_over_a_crash() {
    let private = private().await;
    let connection = &private.connection;
    for subject in [
        "rounds.job.j.end",
        "rounds.task.a.infer.j.0.0.0.1",
        "rounds.result.a.infer.j.0.0.0.1",
    ] {
        let first = publish::create(connection, subject, Bytes::from_static(b"first"))
            .await
            .unwrap();
        assert_eq!(first, Created::New);
        let second = publish::create(connection, subject, Bytes::from_static(b"second"))
            .await
            .unwrap();
        assert_eq!(second, Created::Exists);
    }
    crash(&private.server).await;
    let third = publish::create(connection, "rounds.job.j.end", Bytes::from_static(b"third"))
        .await
        .unwrap();
    assert_eq!(third, Created::Exists);
    let standing = tail::read_last(connection, streams::JOBS, "rounds.job.j.end")
        .await
        .unwrap();
    assert_eq!(standing.as_deref(), Some(&b"first"[..]));
    assert_eq!(
        tail::read_last(connection, streams::JOBS, "rounds.job.k.end")
            .await
            .unwrap(),
        None
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publisher_that_expects_nothing_is_stopped_by_the_server_and_told_it_is_no_success() {
    let private = private().await;
    let subject = "rounds.task.a.infer.j.0.0.0.1";
    publish::replace(&private.connection, subject, Bytes::from_static(b"1"))
        .await
        .unwrap();
    let second = publish::replace(&private.connection, subject, Bytes::from_static(b"2")).await;
    assert!(matches!(second, Err(Error::Full { .. })), "{second:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_beyond_the_servers_bound_is_refused() {
    let private = private().await;
    let huge = Bytes::from(vec![b' '; 9 << 20]);
    let refused = publish::create(&private.connection, &subjects::end("j", 0), huge).await;
    assert!(matches!(refused, Err(Error::Refused { .. })), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tail_goes_on_after_a_crash_without_loss_or_repetition() {
    let private = private().await;
    let connection = private.connection.clone();
    let (sender, mut receiver) = tokio::sync::mpsc::channel(4);
    let reading = tail::tail(
        connection.clone(),
        streams::JOBS,
        subjects::ALL_ENDS.into(),
        1,
        sender,
    );
    tokio::spawn(reading);
    let mut seen = Vec::new();
    for number in 0..60 {
        if number == 20 || number == 40 {
            crash(&private.server).await;
        }
        let subject = subjects::end(&format!("j{number}"), 0);
        publish::create(&connection, &subject, Bytes::from_static(b"{}"))
            .await
            .unwrap();
        publish::replace(&connection, subjects::SUBMIT, Bytes::from_static(b"x"))
            .await
            .unwrap();
        if number % 7 == 0 {
            seen.push(receiver.recv().await.unwrap().subject);
        }
    }
    while seen.len() < 60 {
        seen.push(receiver.recv().await.unwrap().subject);
    }
    let expected: Vec<String> = (0..60)
        .map(|number| subjects::end(&format!("j{number}"), 0))
        .collect();
    assert_eq!(seen, expected);
}
