//! Real clients that log in with certificates (EXTERNAL), and the commands of the README that make such certificates.

use super::programs::{EXTERNAL_PROGRAMS, gsasl, pasted};
use super::{ALICE, LISTENERS, OwnCertificate, PASSWORD, Submission, queued, samples, submit};
use crate::authority::{Authority, Issued, Order, YEARS};
use crate::daemon::{Daemon, field};
use crate::process::program;

/// A certificate that names an account, and one that names a stranger, each shown by every client that knows EXTERNAL.
#[test]
#[ignore = "needs curl, gsasl, msmtp, s-nail, python3: .ci/run installs them"]
fn programs_log_in_with_certificates() {
    let ca = Authority::new("the CA", YEARS);
    let daemon = Daemon::serve(&[(ALICE, PASSWORD, &[])], "");
    let write = |name: &str, issued: &Issued| {
        let file = |extension: &str, text: &str| {
            let path = daemon.folder().join(format!("{name}.{extension}"));
            std::fs::write(&path, text).unwrap();
            path.to_str().unwrap().to_owned()
        };
        OwnCertificate {
            certificate: file("crt", &issued.certificate),
            key: file("key", &issued.key),
        }
    };
    let mark = daemon.log.mark();
    let config = daemon.folder().join("gatepost.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(daemon.folder().join("ca.pem"), ca.pem()).unwrap();
    std::fs::write(&config, text + "\n[[client_ca]]\nfile = \"ca.pem\"\n").unwrap();
    daemon.hang_up();
    daemon
        .log
        .wait(mark, &["event=reload", "what=configuration"]);

    let alice = write("alice", &ca.issue(&Order::of(&[ALICE])));
    let stranger = write("stranger", &ca.issue(&Order::of(&["stranger@example.net"])));
    let message = &samples()[0].message;
    for listener in LISTENERS {
        let good = Submission {
            listener,
            mechanism: "EXTERNAL",
            password: "",
            own: Some(&alice),
            ..Submission::new(&daemon, message)
        };
        for (name, client) in EXTERNAL_PROGRAMS {
            submit(name, client, &good);
            let other = Submission {
                own: Some(&stranger),
                ..good.clone()
            };
            let queued = queued(&daemon);
            assert!(!client(&other).accepted, "{name}");
            assert_eq!(super::queued(&daemon), queued, "{name}");
        }
    }
    // It logs in and leaves, and knows STARTTLS only.
    let mark = daemon.log.mark();
    let outcome = gsasl(&Submission {
        mechanism: "EXTERNAL",
        own: Some(&alice),
        ..Submission::new(&daemon, message)
    });
    assert!(outcome.accepted, "gsasl: {}", outcome.said);
    let line = daemon.log.wait(mark, &["event=auth.accepted"]);
    assert_eq!(field(&line, "mechanism"), Some("EXTERNAL"));
    daemon.stop();
}

/// What the README says about client certificates, from the making of one to the message that is sent with it.
#[test]
#[ignore = "needs openssl and curl: .ci/run installs them"]
fn the_commands_of_the_readme_make_certificates_that_log_in() {
    let daemon = Daemon::serve(&[(ALICE, PASSWORD, &[])], "");
    let folder = daemon.folder();
    let readme = include_str!("../../../README.md");
    let (_, section) = readme.split_once("## Client certificates\n").unwrap();
    let (section, _) = section.split_once("\n## ").unwrap();
    let blocks = |language: &str| -> Vec<String> {
        let start = format!("```{language}\n");
        let blocks = section.split(&start).skip(1);
        let blocks = blocks.map(|rest| rest.split("```").next().unwrap().to_owned());
        blocks.collect()
    };
    let program = program().canonicalize().unwrap();
    let run = |lines: &str| {
        let path = program.parent().unwrap().display();
        let environment =
            format!("set -e; export PATH=\"{path}:$PATH\" GATEPOST_CONFIG=gatepost.toml\n");
        pasted(folder, &(environment + lines))
    };
    let [own, add, by_ca, curl] = &blocks("sh")[..] else {
        panic!("the section has other commands than it had");
    };
    let mark = daemon.log.mark();
    for lines in [own, add, by_ca] {
        run(lines);
    }
    daemon.log.wait(mark, &["event=reload", "what=accounts"]);
    let mark = daemon.log.mark();
    let config = std::fs::read_to_string(folder.join("gatepost.toml")).unwrap();
    let [client_ca] = &blocks("toml")[..] else {
        panic!("the section has other settings than it had");
    };
    std::fs::write(folder.join("gatepost.toml"), config + client_ca).unwrap();
    daemon.hang_up();
    daemon
        .log
        .wait(mark, &["event=reload", "what=configuration"]);

    std::fs::write(folder.join("message.eml"), &samples()[0].message).unwrap();
    let here = format!(
        "localhost:{} --cacert certificate.pem",
        daemon.starttls.port()
    );
    let by_address = curl.replace("mail.example.org:587", &here);
    assert_ne!(by_address, *curl);
    let by_fingerprint = by_address
        .replace("alice.pem", "printer.pem")
        .replace("alice.key", "printer.key");
    for (lines, credential) in [(by_address, None), (by_fingerprint, Some("printer"))] {
        let mark = daemon.log.mark();
        run(&lines);
        let line = daemon.log.wait(mark, &["event=message.accepted"]);
        assert_eq!(field(&line, "account"), Some(ALICE));
        assert_eq!(field(&line, "credential"), credential);
    }
    daemon.stop();
}
