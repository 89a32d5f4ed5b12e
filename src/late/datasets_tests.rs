//! Which datasets are mounted late, and which are not.

use super::*;

/// As OpenZFS 2.3.2 prints it.
const LIST: &str = "\
tank\t/tank\ton\tno\t-\toff\toff\toff\t-\t-
tank/data\t/tank/data\ton\tno\t-\toff\trw=@10.0.0.0/8\toff\t-\t-
tank/docker\tlegacy\ton\tno\t-\toff\toff\toff\t-\t-
tank/ROOT\tnone\toff\tno\t-\toff\toff\toff\t-\t-
tank/with blank\t/srv/with blank\ton\tno\t-\toff\toff\toff\t-\t-
tank/by-hand\t/tank/by-hand\tnoauto\tno\t-\toff\toff\toff\t-\t-
tank/container\t/tank/container\toff\tno\t-\toff\toff\toff\t-\t-
tank/container/leaf\t/tank/container/leaf\ton\tno\t-\toff\toff\ton\t-\t-
tank/locked\t/tank/locked\ton\tno\tunavailable\toff\toff\toff\t-\t-
tank/open\t/tank/open\ton\tno\tavailable\toff\toff\toff\t-\t-
tank/here\t/tank/here\ton\tyes\t-\toff\toff\toff\t-\t-
tank/zone\t/tank/zone\ton\tno\t-\ton\toff\toff\t-\t-
tank/half\t/tank/half\ton\tno\t-\toff\toff\toff\t1-c740b4779\t-
tank/redacted\t/tank/redacted\ton\tno\t-\toff\toff\toff\t-\tsnap
";
const DUE: [&str; 6] =
    ["tank/with blank", "tank", "tank/container/leaf", "tank/data", "tank/half", "tank/open"];

fn nothing(_: &Path, _: &Ways) -> std::io::Result<Content> {
    Ok(Content::default())
}

fn names(datasets: &[Dataset]) -> Vec<&str> {
    datasets.iter().map(|d| d.name.as_str()).collect()
}

fn refused(list: &[Refused]) -> Vec<&str> {
    list.iter().map(|r| r.dataset.name.as_str()).collect()
}

fn lines(text: &str) -> Vec<Line> {
    parse(text).unwrap().lines
}

fn all() -> Vec<Dataset> {
    missing(&lines(LIST), &[], &[], true)
}

fn mount(place: &str, source: &str, trap: bool) -> Mount {
    Mount { place: place.into(), source: source.into(), trap }
}

fn unit(what: &str, place: &str, wanted: bool) -> MountUnit {
    MountUnit {
        name: format!("{what}.mount"),
        what: what.into(),
        place: place.into(),
        wanted,
        ..MountUnit::default()
    }
}

#[test]
fn what_zfs_mount_a_leaves_out_is_left_out_and_parents_come_first() {
    let decision = decide(&all(), &[], nothing);
    assert_eq!(names(&decision.mount), DUE);
    assert_eq!(names(&decision.locked), ["tank/locked"]);
    assert_eq!((&decision.refused[..], &decision.avoided[..]), (&[][..], &[][..]));
    let find = |is: fn(&Dataset) -> bool| -> Vec<String> {
        all().into_iter().filter(is).map(|d| d.name).collect()
    };
    assert_eq!(find(|d| d.shared), ["tank/container/leaf", "tank/data"]);
    assert_eq!(find(|d| d.partial), ["tank/half"]);
    let decision = decide(&missing(&lines(LIST), &[], &[], false), &[], nothing);
    assert_eq!(decision, Decision::default(), "nobody runs zfs mount -a");
}

#[test]
fn a_complaint_among_the_lines_costs_no_dataset() {
    assert_eq!(parse("").unwrap(), Listed::default(), "no pool");
    let complaint = "libshare: no nfs server";
    let listed = parse(&format!("{complaint}\n{LIST}\n")).unwrap();
    assert_eq!((listed.lines.len(), &listed.complaints[..]), (14, &[complaint.to_owned()][..]));
    let error = parse("tank\t/tank\ton\n").unwrap_err().to_string();
    assert!(error.contains("tank\\t/tank"), "{error}");
}

#[test]
fn a_directory_with_files_in_it_is_refused_with_all_below_it_and_the_rest_is_mounted() {
    let content = Content { files: 3, ..Content::default() };
    for (at, mounted, refuses) in [
        (
            "/tank",
            &["tank/with blank"][..],
            &["tank", "tank/container/leaf", "tank/data", "tank/half", "tank/locked", "tank/open"]
                [..],
        ),
        (
            "/tank/data",
            &["tank/with blank", "tank", "tank/container/leaf", "tank/half", "tank/open"],
            &["tank/data"],
        ),
        // Its key may come yet.
        ("/tank/locked", &DUE, &["tank/locked"]),
        // Nobody mounts this one.
        ("/tank/by-hand", &DUE, &[]),
    ] {
        let decision = decide(&all(), &[], |path, _| {
            Ok(if path == Path::new(at) { content.clone() } else { Content::default() })
        });
        assert_eq!(
            (&names(&decision.mount)[..], &refused(&decision.refused)[..]),
            (mounted, refuses),
            "{at}"
        );
        for r in &decision.refused {
            let want = if r.dataset.mountpoint == Path::new(at) {
                Why::NotEmpty(content.clone())
            } else {
                Why::Below("tank".to_owned())
            };
            assert_eq!(r.why, want, "{at}: {}", r.dataset.name);
        }
    }
}

#[test]
fn empty_directories_are_hidden_and_named() {
    let content = Content { files: 0, directories: 2 };
    let decision = decide(&all(), &[], |path, _| {
        Ok(if path == Path::new("/tank/data") { content.clone() } else { Content::default() })
    });
    assert_eq!(names(&decision.mount), DUE);
    assert_eq!(decision.hidden, [("/tank/data".into(), content)]);
}

#[test]
fn what_is_mounted_at_the_place_or_below_it_would_be_hidden() {
    let list = "a\t/a\ton\tno\t-\toff\toff\toff\t-\t-\nb\t/b\ton\tno\t-\toff\toff\toff\t-\t-\n";
    let all = missing(&lines(list), &[], &[], true);
    for (at, trap, want) in [
        ("/a", false, Some("a")),
        ("/a/x", false, Some("a")),
        ("/ax", false, None),
        ("/", false, None),
        // An automount: nobody could write below it, and to look would mount.
        ("/a", true, None),
    ] {
        let decision = decide(&all, &[mount(at, "x", trap)], |path, _| {
            assert!(!trap || path != Path::new("/a"), "looked into");
            Ok(Content::default())
        });
        let first = decision.refused.first();
        assert_eq!(first.map(|r| r.dataset.name.as_str()), want, "{at}");
        assert_eq!(first.map(|r| r.why.clone()), want.map(|_| Why::Covered(at.into())), "{at}");
    }
}

#[test]
fn two_datasets_for_one_place_have_the_same_in_their_way() {
    let list = "a\t/x\ton\tno\t-\toff\toff\toff\t-\t-\nb\t/x\ton\tno\t-\toff\toff\toff\t-\t-\n";
    let content = Content { files: 1, ..Content::default() };
    let datasets = missing(&lines(list), &[], &[], true);
    let decision = decide(&datasets, &[], |_, _| Ok(content.clone()));
    assert!(decision.refused.iter().all(|r| r.why == Why::NotEmpty(content.clone())));
    assert_eq!((decision.mount.len(), decision.refused.len()), (0, 2));
}

#[test]
fn mount_units_that_the_boot_wanted_count_whoever_wrote_them() {
    let units = [
        unit("tank/docker", "/var/lib/docker", true),
        unit("tank/by-hand", "/tank/by-hand", true),
        unit("tank/ROOT", "/mnt", false),
        // Its pool is not there.
        unit("gone/x", "/gone", true),
        // systemd has not noticed yet.
        unit("tank/here", "/elsewhere", true),
    ];
    let mounts = [mount("/elsewhere", "tank/here", false)];
    for (all, files, mounts_, refuses, avoids) in [
        (false, "", &["tank/by-hand", "tank/docker"][..], &[][..], &[][..]),
        (false, "/var/lib/docker", &["tank/by-hand"], &["tank/docker"], &[]),
        // Nobody asked for it: it is only not mounted for somebody who does.
        (false, "/mnt", &["tank/by-hand", "tank/docker"], &[], &["tank/ROOT"]),
    ] {
        let datasets = missing(&lines(LIST), &units, &mounts, all);
        let decision = decide(&datasets, &mounts, |path, _| {
            let files = u64::from(path == Path::new(files));
            Ok(Content { files, ..Content::default() })
        });
        assert_eq!(names(&decision.mount), mounts_, "{files:?}");
        assert_eq!(refused(&decision.refused), refuses, "{files:?}");
        assert_eq!(refused(&decision.avoided), avoids, "{files:?}");
    }
    let datasets = missing(&lines(LIST), &[unit("tank/open", "/tank/open", true)], &[], true);
    let decision = decide(&datasets, &[], nothing);
    assert_eq!(names(&decision.mount), DUE, "once");
    let by_zfs: Vec<_> = decision.mount.iter().filter(|d| d.is_left_to_zfs()).collect();
    assert_eq!(by_zfs.len(), DUE.len() - 1, "one has a unit: {by_zfs:?}");
}
