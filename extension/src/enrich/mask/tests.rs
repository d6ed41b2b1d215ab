use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;

thread_local!(static MASKER: Masker = Masker::new());

fn mask(text: &str) -> String {
    MASKER.with(|masker| masker.mask(text).into_owned())
}

fn argv(words: &[&str]) -> Vec<String> {
    let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
    MASKER.with(|masker| masker.mask_argv(&words))
}

/// A line with its secret, and as it is stored. Tokens are put together here so that no scanner takes them for real.
#[test]
fn secrets_are_masked() {
    let a = |n: usize| "aB3dE6gH9j".repeat(10)[..n].to_owned();
    let hex = |n: usize| "0123456789abcdef".repeat(10)[..n].to_owned();
    let cases: &[(String, &str)] = &[
        // By form.
        (format!("echo sk-{}-api03-{}-{}_x", "ant", a(40), a(20)), "echo sk-ant-****"),
        (format!("x sk-{}", a(48)), "x sk-****"),
        (format!("x sk-proj-{}-{}", a(30), a(30)), "x sk-proj-****"),
        (format!("x sk-or-v1-{}", hex(64)), "x sk-or-****"),
        (format!("x 'AIza{}'", a(35)), "x 'AIza****'"),
        (format!("xai-{}", a(80)), "xai-****"),
        (format!("gsk_{}", a(52)), "gsk_****"),
        (format!("hf_{}", a(34)), "hf_****"),
        (format!("gh{}_{}", "p", a(36)), "ghp_****"),
        (format!("gho_{} ghu_{} ghs_{} ghr_{}", a(36), a(36), a(36), a(36)), "gho_**** ghu_**** ghs_**** ghr_****"),
        (format!("github_pat_{}_{}", a(22), a(59)), "github_pat_****"),
        (format!("glpat-{}", a(20)), "glpat-****"),
        (format!("AK{}{}", "IA", "ABCDEFGHIJKLMNOP"), "AKIA****"),
        (format!("ASIA{}", "ABCDEFGHIJKLMNOP"), "ASIA****"),
        (format!("npm_{}", a(36)), "npm_****"),
        (format!("pypi-AgEIcHlwaS5vcmc{}-{}", a(40), a(40)), "pypi-****"),
        (format!("xox{}-123456789012-{}", "b", a(24)), "xoxb-****"),
        (
            format!("curl https://hooks.slack.com/services/T0/B0/{}", a(24)),
            "curl https://hooks.slack.com/services/****",
        ),
        (format!("sk_{}_{}", "live", a(24)), "sk_live_****"),
        (format!("hvs.{}", a(24)), "hvs.****"),
        (format!("jwt eyJ{}.eyJ{}.{}", a(20), a(30), a(43)), "jwt eyJ****"),
        (
            format!("echo -----BEGIN RSA {} KEY-----\n{}\n-----END RSA {} KEY-----", "PRIVATE", a(64), "PRIVATE"),
            "echo -----BEGIN RSA PRIVATE KEY-----****-----END RSA PRIVATE KEY-----",
        ),
        (format!("-----BEGIN {} KEY-----\n{}", "PRIVATE", a(64)), "-----BEGIN PRIVATE KEY-----****"),
        // By name.
        ("API_KEY=abc cmd".into(), "API_KEY=**** cmd"),
        ("env AWS_SECRET_ACCESS_KEY=wJalr/K7+x aws s3 ls".into(), "env AWS_SECRET_ACCESS_KEY=**** aws s3 ls"),
        ("PGPASSWORD='two words' psql".into(), "PGPASSWORD='****' psql"),
        ("export GITHUB_TOKEN=\"x y\" && ls".into(), "export GITHUB_TOKEN=\"****\" && ls"),
        ("CLIENT_SECRET=a;ls".into(), "CLIENT_SECRET=****;ls"),
        ("MYSQL_PWD=a mysql".into(), "MYSQL_PWD=**** mysql"),
        ("x --password hunter2 --user me".into(), "x --password **** --user me"),
        ("x --password=hunter2 -v".into(), "x --password=**** -v"),
        ("x --db-password 'a b' y".into(), "x --db-password '****' y"),
        ("gh --token abc".into(), "gh --token ****"),
        ("tool --api-key abc --api-key=def".into(), "tool --api-key **** --api-key=****"),
        ("java -Dspring.datasource.password=abc -jar x".into(), "java -Dspring.datasource.password=**** -jar x"),
        ("psql host=h password=abc".into(), "psql host=h password=****"),
        (r#"curl -d '{"user":"u","password":"a b"}'"#.into(), r#"curl -d '{"user":"u","password":"****"}'"#),
        (r#"curl -d "{\"api_key\": \"abc\"}""#.into(), r#"curl -d "{\"api_key\": \"****\"}""#),
        ("aws configure set aws_secret_access_key abc".into(), "aws configure set aws_secret_access_key ****"),
        ("npm config set //r.example.com/:_authToken abc".into(), "npm config set //r.example.com/:_authToken ****"),
        ("npm --//r.example.com/:_authToken=abc".into(), "npm --//r.example.com/:_authToken=****"),
        // Headers.
        ("curl -H 'Authorization: Bearer abc' x".into(), "curl -H 'Authorization: Bearer ****' x"),
        ("curl -H Authorization: Bearer abc x".into(), "curl -H Authorization: Bearer **** x"),
        ("curl -H \"authorization: Basic dTpw\" x".into(), "curl -H \"authorization: Basic ****\" x"),
        ("curl -H 'Authorization: abcdef1' x".into(), "curl -H 'Authorization: ****' x"),
        ("curl -H 'Authorization: Custom abc' x".into(), "curl -H 'Authorization: ****' x"),
        ("curl -H 'x-api-key: abc' x".into(), "curl -H 'x-api-key: ****' x"),
        ("curl -H 'PRIVATE-TOKEN: abc' x".into(), "curl -H 'PRIVATE-TOKEN: ****' x"),
        ("curl -H 'Cookie: a=b; c=d' x".into(), "curl -H 'Cookie: ****' x"),
        ("echo bearer abcdefgh12345678".into(), "echo bearer ****"),
        // URLs.
        ("git clone https://me:pw@example.com/r.git".into(), "git clone https://me:****@example.com/r.git"),
        ("psql postgresql://u:p%40w@h:5432/db".into(), "psql postgresql://u:****@h:5432/db"),
        ("redis://:pw@h".into(), "redis://:****@h"),
        ("amqp://u:p@ss@h/v".into(), "amqp://u:****@h/v"),
        (format!("git clone https://{}@example.com/r", a(30)), "git clone https://****@example.com/r"),
        (format!("git clone https://{}:x-oauth-basic@h/r", a(30)), "git clone https://****:****@h/r"),
        ("https://x/y?a=1&access_token=abc&b=2#f".into(), "https://x/y?a=1&access_token=****&b=2#f"),
        (
            "https://b.s3.example.com/k?X-Amz-Signature=abc&x=y".into(),
            "https://b.s3.example.com/k?X-Amz-Signature=****&x=y",
        ),
        // By program.
        ("mysql -u root -psecret db".into(), "mysql -u root -p**** db"),
        ("sudo -E /usr/bin/mysqldump -psecret".into(), "sudo -E /usr/bin/mysqldump -p****"),
        ("cd x; mysql -psecret; mkdir -pv d".into(), "cd x; mysql -p****; mkdir -pv d"),
        ("bash -c 'mysql -psecret -e \"select 1\"'".into(), "bash -c 'mysql -p**** -e \"select 1\"'"),
        ("docker exec db mysql -psecret".into(), "docker exec db mysql -p****"),
        ("sshpass -p secret ssh h".into(), "sshpass -p **** ssh h"),
        ("sshpass -psecret ssh h".into(), "sshpass -p**** ssh h"),
        ("curl -u me:pw https://x".into(), "curl -u me:**** https://x"),
        ("curl -ume:pw --proxy-user 'a:b c' x".into(), "curl -ume:**** --proxy-user 'a:****' x"),
        ("curl 'https://x/?a=1&b=2' -u me:pw".into(), "curl 'https://x/?a=1&b=2' -u me:****"),
        ("curl https://x/?a=1&b=2 -u me:pw".into(), "curl https://x/?a=1&b=2 -u me:****"),
        ("redis-cli -a x; cd y;mysql -pz".into(), "redis-cli -a ****; cd y;mysql -p****"),
        ("x=$(mysql -psecret)".into(), "x=$(mysql -p****)"),
        ("redis-cli -a secret ping".into(), "redis-cli -a **** ping"),
        ("docker login -u me -p secret r.io".into(), "docker login -u me -p **** r.io"),
        ("openssl rsa -passin pass:secret -in k".into(), "openssl rsa -passin pass:**** -in k"),
        ("unzip -P secret x.zip".into(), "unzip -P **** x.zip"),
    ];
    for (line, expected) in cases {
        assert_eq!(mask(line), *expected, "{line}");
        assert_eq!(mask(expected), *expected, "a masked line stays as it is");
    }
}

#[test]
fn ordinary_lines_stay() {
    for line in [
        "",
        "ls -la",
        "git commit -m 'add password field'",
        "git show 0123456789abcdef0123456789abcdef01234567",
        "sha256sum -c e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "mkdir -p a/b && cp -p x y && ssh -p 2222 h && docker run -p 80:80 -u 1000:1000 mysql",
        "grep -psecret x",
        "cat ~/.ssh/id_ed25519 /etc/passwd",
        "psql --no-password db",
        "docker login --password-stdin -u me",
        "docker build --secret id=npm,src=.npmrc .",
        "curl https://example.com:8443/a?page=2&sort=key",
        "npm view https://registry.npmjs.org:443/@scope/pkg",
        "git clone git@github.com:me/repo.git ssh://git@host:22/x",
        "curl -H 'Authorization: Bearer $TOKEN' -u $USER x",
        "API_KEY=$OTHER_KEY TOKEN=${X} SECRET=$(pass show x) cmd",
        "claude --max-tokens 4096 --token-limit=3",
        "sort --key=2 -k 1,1 --field-separator=, KEY=x",
        "sk-learn sk-image-processing-and-more npm_config_cache pypi-mirror-of-everything-that-there-is-today",
        "pip install scikit-learn==1.5.0 pkg@1.2.3",
        "2024-01-01T10:00:00Z 10:20:30 user@example.com",
        "python -c 'print(\"token\")'",
        "node --inspect=127.0.0.1:9229 x.js",
        "echo \"unclosed 'quotes",
        "ünïcode --flag=wért 日本語",
    ] {
        assert_eq!(mask(line), line);
        assert!(MASKER.with(|masker| matches!(masker.mask(line), Cow::Borrowed(_))), "{line}");
    }
}

#[test]
fn arguments_are_masked_to_their_end() {
    assert_eq!(argv(&["x", "--password", "two words", "y"]), ["x", "--password", "****", "y"]);
    assert_eq!(argv(&["env", "DB_PASSWORD=a b&c;d", "cmd"]), ["env", "DB_PASSWORD=****", "cmd"]);
    assert_eq!(argv(&["x", "--token=a b"]), ["x", "--token=****"]);
    assert_eq!(argv(&["sh", "-c", "TOKEN=a cmd b"]), ["sh", "-c", "TOKEN=**** cmd b"]);
    assert_eq!(argv(&["bash", "-lc", "mysql -pa b"]), ["bash", "-lc", "mysql -p**** b"]);
    assert_eq!(argv(&["mysql", "-pa b"]), ["mysql", "-p****"]);
    assert_eq!(argv(&["curl", "-u", "a:b c", "-H", "X-Api-Key: q"]), ["curl", "-u", "a:****", "-H", "X-Api-Key: ****"]);
    assert_eq!(argv(&["claude", "-p", "say --password hunter2"]), ["claude", "-p", "say --password ****"]);
    assert_eq!(argv(&["git", "commit", "-m", "a b"]), ["git", "commit", "-m", "a b"]);
    assert_eq!(argv(&[]), [""; 0]);
    assert_eq!(argv(&["x", "--password"]), ["x", "--password"]);
}

#[test]
fn a_line_of_a_mebibyte_is_no_matter() {
    let size = 1 << 20;
    let repeat = |text: &str| text.repeat(size / text.len());
    for line in [
        repeat("a"),
        repeat("A_"),
        repeat("' "),
        repeat("\" '"),
        repeat("' \"a "),
        repeat("-p "),
        repeat("eyJaaaaaaaa."),
        repeat("x://a:"),
        repeat("--password "),
        repeat("-----BEGIN PRIVATE KEY-----"),
        repeat("authorization "),
        repeat("token= "),
        repeat("é"),
    ] {
        let start = Instant::now();
        let _ = mask(&line);
        // Some tens of milliseconds each; a quadratic cost would take minutes.
        assert!(start.elapsed() < Duration::from_secs(10), "{:?} {}", start.elapsed(), &line[..12]);
    }
}

/// What command lines are made of, without a secret.
fn ordinary_word() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z]{1,12}",
        "-{1,2}[a-z]{1,6}(-[a-z]{1,5})?(=[a-z0-9]{1,8})?",
        "(/[a-zA-Z0-9._-]{1,12}){1,5}",
        "\\.{0,2}/?[a-z]{1,8}\\.(rs|py|js|tar\\.gz|json|d\\.ts)",
        "[0-9a-f]{7}|[0-9a-f]{40}|[0-9a-f]{64}|sha256:[0-9a-f]{64}|sha512-[A-Za-z0-9+/]{86}==",
        "[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}",
        "[a-z]{2,8}(==|@|@\\^|>=)[0-9]{1,2}\\.[0-9]{1,3}\\.[0-9]{1,3}(-(alpha|beta|rc)\\.[0-9])?",
        "https?://[a-z]{1,8}(\\.[a-z]{2,6}){1,2}(:[0-9]{2,5})?(/[a-zA-Z0-9._@-]{1,8}){0,4}(\\?(page|q|id|sort)=[a-z0-9]{1,6}(&n=[0-9]{1,3})?)?",
        "[a-z.]{1,10}@[a-z]{1,8}\\.(com|org)",
        "git@[a-z]{1,8}\\.com:[a-z]{1,8}/[a-z]{1,8}\\.git",
        "[A-Za-z0-9]{16,32}(\\.[a-z]{2,4})?|[A-Za-z0-9+/]{20,43}={0,2}",
        "[A-Z]{2,8}_(PATH|DIR|HOME|URL|MODE)=[a-z/]{1,12}",
        "[0-9]{1,5}:[0-9]{1,5}|[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z",
        "'[a-z]{1,8}( [a-z]{1,8}){0,4}'|\"[a-z]{1,8} \\$[A-Z]{1,8}\"|&&|\\||;|>|2>&1|<<<|\\*|\\{a,b\\}",
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn ordinary_command_lines_stay_as_they_are(
        command in prop_oneof!["git|ls|cargo|npm|python3|grep|docker|mkdir|ssh|node|tar|find|sed|make|kubectl|psql"],
        words in proptest::collection::vec(ordinary_word(), 0..12),
    ) {
        let line = format!("{command} {}", words.join(" "));
        prop_assert_eq!(mask(&line), line);
        let mut args = vec![command];
        args.extend(words);
        prop_assert_eq!(MASKER.with(|masker| masker.mask_argv(&args)), args);
    }

    #[test]
    fn a_secret_is_masked_wherever_it_stands(
        before in proptest::collection::vec(ordinary_word(), 0..5),
        secret in "[A-Za-z0-9]{36}",
        form in proptest::sample::select(vec![
            "ghp_@", "sk-ant-api03-@", "--password=@", "--token @", "A_KEY=@", "https://u:@@h/", "x?token=@&a",
        ]),
        after in proptest::collection::vec(ordinary_word(), 0..5),
    ) {
        let line = [before.join(" "), form.replacen('@', &secret, 1), after.join(" ")].join(" ");
        let masked = mask(&line);
        prop_assert!(!masked.contains(&secret), "{}", masked);
        prop_assert_eq!(mask(&masked), masked.clone(), "twice is once");
    }

    #[test]
    fn any_text_is_masked_without_a_panic(
        text in "([a-z]|--password|-p|mysql |curl |-u |TOKEN=|['\"\\\\ é:@/$({;|=]|authorization: |eyJ){0,40}",
        words in proptest::collection::vec(".{0,20}", 0..6),
    ) {
        let _ = mask(&text);
        let _ = MASKER.with(|masker| masker.mask_argv(&words));
    }
}
