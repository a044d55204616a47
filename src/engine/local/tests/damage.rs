//! What is on disk is cut, overwritten, deleted: then the engine recovers all that was acknowledged, or says what is
//! known and what to do. It never opens with less in silence.

use super::{faults::copy, *};

/// A store with something in tables and in journals, and the model of it.
async fn filled(dir: &Path) -> Model {
    let mut model = Model::new(REGISTRY_ID, Vec::new());
    for epoch in 1..=2 {
        let (mut engine, recovered) = LocalEngine::open(dir, options(epoch)).unwrap();
        model.epochs = recovered.epochs;
        for round in 0..5 {
            let batch = (0..12).map(|key| Op::Register { key, size: 100 * round }).collect();
            drive(&mut engine, &mut model, &[batch]).await.unwrap();
        }
        engine.close().await;
        if epoch == 1 {
            let (store, _) = FjallStore::open(&dir.join("store"), 0).unwrap();
            store.flush();
        }
    }
    model
}

/// Every file of the store.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files.extend(self::files(&path)) } else { files.push(path) }
    }
    files.sort();
    files
}

/// What must hold of a damaged store: refused with a sentence, or all there.
fn refused_or_whole(dir: &Path, model: &Model, what: &str) -> bool {
    match LocalEngine::open(dir, options(77)) {
        Ok((_engine, recovered)) => {
            assert_eq!(recovered.revision, model.revision, "{what}");
            let found = recovered.records.iter().map(|record| (record.key(), record.clone())).collect();
            assert_eq!(model.records, found, "{what}");
            true
        }
        Err(OpenError::Corrupt { what: known, advice, .. }) => {
            assert!(!known.is_empty() && advice.contains("copy"), "{what}: {known}; {advice}");
            for keyspace in 0..=5 {
                assert!(dir.join(format!("store/keyspaces/{keyspace}")).exists(), "{what}: {keyspace} is gone");
            }
            false
        }
        Err(other) => panic!("{what}: {other}"),
    }
}

#[tokio::test]
async fn a_torn_journal_end_is_recovered_unless_it_was_acknowledged() {
    let dir = TempDir::new().unwrap();
    let mut model = filled(dir.path()).await;
    let journal = files(dir.path()).into_iter().rfind(|file| file.extension().is_some_and(|end| end == "jnl")).unwrap();
    // Half a batch more, as a power cut leaves it.
    let mut bytes = fs::read(&journal).unwrap();
    let half = bytes[..200].to_vec();
    bytes.extend(half);
    fs::write(&journal, &bytes).unwrap();
    let (engine, recovered) = LocalEngine::open(dir.path(), options(3)).unwrap();
    model.epochs.push(Epoch { id: 3, after: model.revision });
    model.check(&recovered);
    engine.close().await;

    // An acknowledged batch less: the note that it had been acknowledged is still there.
    let mut torn = fs::read(&journal).unwrap();
    torn.truncate(torn.len() / 2);
    fs::write(&journal, torn).unwrap();
    let refused = LocalEngine::open(dir.path(), options(4)).unwrap_err().to_string();
    assert!(refused.contains(&format!("revision {} had been acknowledged", model.revision)), "{refused}");
    let refused_again = LocalEngine::open(dir.path(), options(4)).unwrap_err().to_string();
    assert_eq!(refused, refused_again);

    // The advice helps.
    fs::remove_file(dir.path().join("store/committed")).unwrap();
    let (_engine, recovered) = LocalEngine::open(dir.path(), options(5)).unwrap();
    assert!(recovered.revision < model.revision && recovered.revision > 0);
    assert_eq!(recovered.epochs.last(), Some(&Epoch { id: 5, after: recovered.revision }));
}

#[tokio::test]
async fn damage_to_any_file_is_never_an_empty_registry() {
    let dir = TempDir::new().unwrap();
    let model = filled(&dir.path().join("good")).await;
    let (bad, mut refusals) = (dir.path().join("bad"), 0);
    let good = dir.path().join("good");
    for file in files(&good.join("store")) {
        let name = file.strip_prefix(&good).unwrap();
        for damage in ["deleted", "emptied", "garbage", "cut", "flipped early", "flipped late"] {
            if name.ends_with("committed") || (name.ends_with("lock") && damage != "garbage") {
                continue; // proves nothing, or is made again
            }
            copy(&good, &bad);
            let mut bytes = fs::read(bad.join(name)).unwrap();
            let mut flip = |at: usize| {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 0x10;
                }
                fs::write(bad.join(name), &bytes).unwrap();
            };
            let len = fs::metadata(bad.join(name)).unwrap().len() as usize;
            match damage {
                "flipped early" => flip(len / 9),
                "flipped late" => flip(len / 9 * 8),
                "deleted" => fs::remove_file(bad.join(name)).unwrap(),
                "emptied" => fs::write(bad.join(name), "").unwrap(),
                "garbage" => fs::write(bad.join(name), [0xa5; 300]).unwrap(),
                _ => fs::write(bad.join(name), &bytes[..len / 2]).unwrap(),
            }
            let what = format!("{} {damage}", name.display());
            refusals += usize::from(!refused_or_whole(&bad, &model, &what));
            fs::remove_dir_all(&bad).unwrap();
        }
    }
    assert!(refusals > 20, "{refusals}");
}
