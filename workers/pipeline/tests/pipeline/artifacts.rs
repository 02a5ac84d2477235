//! Artifacts on a real server.

use bytes::Bytes;
use pipeline::{
    Error,
    artifacts::{CHUNK_BYTES, download_bytes, download_file, exists, purge, upload_bytes, upload_file},
    publish, subjects,
};
use schemas::task::ArtifactRef;

use crate::server::{crash, private};

fn noise(length: usize) -> Vec<u8> {
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..length).map(|_| next()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_and_files_come_back_whatever_their_length() {
    let private = private().await;
    let connection = &private.connection;
    let chunk = CHUNK_BYTES as usize;
    for length in [0, 1, chunk - 1, chunk, chunk + 1, 22 << 20] {
        let bytes = noise(length);
        let artifact = upload_bytes(connection, "a", "j", Bytes::from(bytes.clone()))
            .await
            .unwrap();
        assert_eq!(
            (artifact.size, &*artifact.digest),
            (length as u64, &*schemas::sha256(&bytes))
        );
        assert_eq!(download_bytes(connection, &artifact).await.unwrap(), bytes);
        let path = private.folder.path().join("file");
        download_file(connection, &artifact, &path).await.unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), bytes);
        // The same bytes again: nothing is sent, and the reference is the same.
        assert_eq!(upload_file(connection, "a", "j", &path).await.unwrap(), artifact);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_broke_off_is_completed() {
    let private = private().await;
    let connection = &private.connection;
    let bytes = Bytes::from(noise(3 * CHUNK_BYTES as usize + 5));
    let artifact = ArtifactRef {
        owner: "a".into(),
        job: "j".into(),
        digest: schemas::sha256(&bytes),
        size: bytes.len() as u64,
    };
    let second = bytes.slice(CHUNK_BYTES as usize..2 * CHUNK_BYTES as usize);
    publish::replace(connection, &subjects::chunk(&artifact, 1), second)
        .await
        .unwrap();
    assert!(!exists(connection, &artifact).await.unwrap());
    let missing = download_bytes(connection, &artifact).await.unwrap_err();
    assert!(
        matches!(
            missing,
            Error::ArtifactMissing {
                chunk: 0,
                chunks: 4,
                ..
            }
        ),
        "{missing}"
    );
    assert_eq!(
        upload_bytes(connection, "a", "j", bytes.clone()).await.unwrap(),
        artifact
    );
    assert!(exists(connection, &artifact).await.unwrap());
    assert_eq!(download_bytes(connection, &artifact).await.unwrap(), bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_corrupted_chunk_is_found_and_leaves_no_file() {
    let private = private().await;
    let connection = &private.connection;
    let bytes = noise(2 * CHUNK_BYTES as usize);
    let artifact = upload_bytes(connection, "a", "j", Bytes::from(bytes.clone()))
        .await
        .unwrap();
    let mut wrong = bytes[CHUNK_BYTES as usize..].to_vec();
    wrong[77] ^= 1;
    publish::replace(connection, &subjects::chunk(&artifact, 1), Bytes::from(wrong))
        .await
        .unwrap();
    let folder = private.folder.path().join("downloads");
    std::fs::create_dir(&folder).unwrap();
    let error = download_file(connection, &artifact, &folder.join("file"))
        .await
        .unwrap_err();
    assert!(matches!(error, Error::ArtifactCorrupt { .. }), "{error}");
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0);
    // A size that is not the artifact's is found too.
    let shorter = ArtifactRef {
        size: artifact.size - CHUNK_BYTES,
        ..artifact
    };
    let error = download_bytes(connection, &shorter).await.unwrap_err();
    assert!(matches!(error, Error::ArtifactCorrupt { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purge_takes_what_it_names_and_a_crash_takes_nothing() {
    let private = private().await;
    let connection = &private.connection;
    let mut kept = Vec::new();
    for (owner, job, text) in [
        ("a", "j", "1"),
        ("a", "j", "2"),
        ("a", "k", "1"),
        ("b", "j", "1"),
        ("global", "j", "1"),
    ] {
        kept.push(
            upload_bytes(connection, owner, job, Bytes::from(text))
                .await
                .unwrap(),
        );
    }
    purge(connection, "a", "j", Some(&kept[0].digest)).await.unwrap();
    let stored = async |artifact: &ArtifactRef| exists(connection, artifact).await.unwrap();
    assert!(!stored(&kept[0]).await);
    assert!(stored(&kept[1]).await && stored(&kept[2]).await && stored(&kept[3]).await);
    purge(connection, "a", "j", None).await.unwrap();
    crash(&private.server).await;
    assert!(!stored(&kept[1]).await);
    assert!(stored(&kept[2]).await && stored(&kept[3]).await && stored(&kept[4]).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_survives_a_crash_of_the_server() {
    let private = private().await;
    let connection = private.connection.clone();
    let bytes = Bytes::from(noise(40 << 20));
    let upload = tokio::spawn({
        let (connection, bytes) = (connection.clone(), bytes.clone());
        async move { upload_bytes(&connection, "a", "j", bytes).await }
    });
    crash(&private.server).await;
    let artifact = upload.await.unwrap().unwrap();
    let download = tokio::spawn(async move { download_bytes(&connection, &artifact).await });
    crash(&private.server).await;
    assert!(download.await.unwrap().unwrap() == bytes);
}
