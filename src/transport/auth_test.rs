//! Tokens that change, fail and hang.

use super::*;
use std::sync::atomic::AtomicUsize;
use tokio::runtime::Handle;

fn auth(source: TokenSource) -> Auth {
    Auth::new(source, TaskScope::new(Handle::current()))
}

async fn sent(auth: &Auth, operation: Operation) -> MetadataMap {
    let mut metadata = MetadataMap::new();
    auth.stamp(&mut metadata, operation, soon()).await.unwrap();
    metadata
}

fn soon() -> Instant {
    Instant::now() + SOURCE_TIMEOUT * 2
}

async fn token(auth: &Auth) -> Result<Option<MetadataValue<Ascii>>> {
    auth.token(soon()).await.map(|(token, _)| token)
}

async fn refreshed(auth: &Auth) -> bool {
    let used = auth.shared.lock().generation;
    auth.refresh(used, soon()).await
}

#[tokio::test]
async fn a_request_carries_the_token_as_a_secret_and_an_id_of_its_own() {
    let auth = auth(TokenSource::fixed(" s3cret\n"));
    let (first, second) = (sent(&auth, Operation::Heartbeat).await, sent(&auth, Operation::Discover).await);
    let token = first.get("x-polaris-token").unwrap();
    assert!(token == "s3cret" && token.is_sensitive());
    assert!(first.get("request-id").unwrap().to_str().unwrap().starts_with('3'));
    assert!(second.get("request-id").unwrap().to_str().unwrap().starts_with('4'));
    assert_ne!(first.get("request-id"), second.get("request-id"));
    assert!(!format!("{auth:?} {first:?}").contains("s3cret"));
}

#[tokio::test]
async fn no_token_is_sent_where_there_is_none() {
    assert!(sent(&auth(TokenSource::default()), Operation::Register).await.get("x-polaris-token").is_none());
}

#[tokio::test(start_paused = true)]
async fn a_file_is_read_again_within_a_minute_and_at_once_when_refused() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "one").unwrap();
    let auth = auth(TokenSource::file(file.path()));
    assert_eq!(token(&auth).await.unwrap().unwrap(), "one");
    std::fs::write(file.path(), "two").unwrap();
    assert_eq!(token(&auth).await.unwrap().unwrap(), "one");
    tokio::time::advance(Duration::from_secs(60)).await;
    assert_eq!(token(&auth).await.unwrap().unwrap(), "two");
    std::fs::write(file.path(), "three").unwrap();
    assert!(refreshed(&auth).await);
    assert_eq!(token(&auth).await.unwrap().unwrap(), "three");
    assert!(!refreshed(&auth).await, "not more than once a second");
    file.close().unwrap();
    tokio::time::advance(Duration::from_secs(60)).await;
    assert_eq!(token(&auth).await.unwrap().unwrap(), "three", "the last good one stays");
}

#[tokio::test(start_paused = true)]
async fn a_source_that_panics_keeps_the_last_good_token() {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let auth = auth(TokenSource::from_fn(move || {
        assert!(counted.fetch_add(1, Ordering::Relaxed) == 1, "planned");
        "good".to_owned()
    }));
    assert_eq!(token(&auth).await.unwrap_err().kind(), ErrorKind::Plugin);
    assert_eq!(token(&auth).await.unwrap().unwrap(), "good");
    tokio::time::advance(Duration::from_secs(60)).await;
    assert_eq!(token(&auth).await.unwrap().unwrap(), "good");
    assert_eq!(calls.load(Ordering::Relaxed), 3);
}

#[tokio::test]
async fn a_token_that_no_header_can_carry_is_refused_without_being_shown() {
    let error = token(&auth(TokenSource::fixed("tok\u{7}en"))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);
    assert!(!error.to_string().contains("tok\u{7}"), "{error}");
}

#[tokio::test]
async fn a_missing_token_file_is_named() {
    let error = token(&auth(TokenSource::file("/no/token"))).await.unwrap_err();
    assert!(error.to_string().contains("/no/token"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn who_was_refused_with_an_older_token_is_told_of_the_newer_one_without_another_read() {
    let reads = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&reads);
    let auth = auth(TokenSource::from_fn(move || format!("token {}", counted.fetch_add(1, Ordering::Relaxed))));
    let first = auth.stamp(&mut MetadataMap::new(), Operation::Discover, soon()).await.unwrap();
    assert!(auth.refresh(first.generation, soon()).await);
    assert!(auth.refresh(first.generation, soon()).await, "the token has changed since it was sent");
    assert_eq!(reads.load(Ordering::Relaxed), 2);
    let second = auth.stamp(&mut MetadataMap::new(), Operation::Discover, soon()).await.unwrap();
    assert_ne!(first.generation, second.generation);
    assert!(!auth.refresh(second.generation, soon()).await, "not more than once a second");
}

#[tokio::test]
async fn a_source_that_hangs_is_read_once_and_its_late_token_is_used() {
    let reads = Arc::new(AtomicUsize::new(0));
    let (counted, (release, held)) = (Arc::clone(&reads), std::sync::mpsc::channel::<()>());
    let held = Mutex::new(held);
    let auth = auth(TokenSource::from_fn(move || {
        counted.fetch_add(1, Ordering::Relaxed);
        held.lock().unwrap().recv().unwrap();
        "late".to_owned()
    }));
    for _ in 0..5 {
        let error = auth.token(Instant::now() + Duration::from_millis(5)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Plugin, "{error}");
        assert!(!auth.refresh(0, Instant::now() + Duration::from_millis(5)).await);
    }
    assert_eq!(reads.load(Ordering::Relaxed), 1);
    release.send(()).unwrap();
    assert_eq!(token(&auth).await.unwrap().unwrap(), "late");
    assert_eq!(reads.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn refusals_that_come_together_share_one_read_and_its_outcome() {
    let reads = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&reads);
    let auth = auth(TokenSource::from_fn(move || {
        let count = counted.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(20));
        format!("token {count}")
    }));
    let used = auth.stamp(&mut MetadataMap::new(), Operation::Register, soon()).await.unwrap().generation;
    let (first, second) = tokio::join!(auth.refresh(used, soon()), auth.refresh(used, soon()));
    assert!(first && second);
    assert_eq!(reads.load(Ordering::Relaxed), 2);
}
