//! Tokens that must not open anything: forged, confused, malformed, huge.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use hmac::{Hmac, Mac};
use serde_json::{Value, json};
use sha2::Sha256;

use super::api::{Api, SECRET, START};

const PATH: &str = "/sales-channel/inventory";

fn encode(text: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(text)
}

fn sign(secret: &[u8], head: &str, claims: &str) -> String {
    let text = format!("{}.{}", encode(head), encode(claims));
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).unwrap();
    mac.update(text.as_bytes());
    format!("{text}.{}", encode(mac.finalize().into_bytes()))
}

/// Every hostile token by its name; all but their flaw is as in a good one.
fn corpus() -> Vec<(String, String)> {
    let exp = START / 1_000_000 + 3_600;
    let claims = json!({ "sub": "x", "org": "acme", "exp": exp, "scope": "inventory:write" });
    let good = claims.to_string();
    let hs = r#"{"alg":"HS256","typ":"JWT"}"#;
    let signed = |head: &str| sign(SECRET, head, &good);
    let saying = |text: &str| sign(SECRET, hs, text);
    let with = |name: &str, value: Value| {
        let mut claims = claims.clone();
        claims[name] = value;
        saying(&claims.to_string())
    };
    let whole = signed(hs);
    let parts: Vec<&str> = whole.split('.').collect();
    let (head, body, signature) = (parts[0], parts[1], parts[2]);
    let mut corpus: Vec<(String, String)> = Vec::new();
    let mut add = |name: &str, token: String| corpus.push((name.to_owned(), token));
    for alg in ["none", "None", "NONE", "nOnE", "", "HS256 ", "hs256", "HS1", "dir"] {
        let head = json!({ "alg": alg }).to_string();
        add(&format!("algorithm {alg:?}, unsigned"), format!("{}.{body}.", encode(&head)));
        add(&format!("algorithm {alg:?}, signed"), signed(&head));
    }
    for alg in ["HS384", "HS512", "RS256", "PS256", "ES256", "ES384", "EdDSA"] {
        let head = json!({ "alg": alg }).to_string();
        add(&format!("algorithm {alg} over an HS256 signature"), signed(&head));
    }
    for alg in [Value::Null, json!(256), json!(["HS256"]), json!({"HS256": 1})] {
        add(&format!("algorithm {alg}"), signed(&json!({ "alg": alg }).to_string()));
    }
    add("no algorithm", signed("{}"));
    add("a head that is no object", signed("[]"));
    add("a head that is no JSON", signed("alg=HS256"));
    add("a critical extension", signed(r#"{"alg":"HS256","crit":["b64"],"b64":false}"#));
    add("an empty secret", sign(b"", hs, &good));
    add("another secret", sign(b"another secret that is long enough!!", hs, &good));
    let empty = |head: &str| sign(b"", head, &good);
    add("the key of an empty file", empty(r#"{"alg":"HS256","kid":"../../../../dev/null"}"#));
    add("a key id of SQL", empty(r#"{"alg":"HS256","kid":"' UNION SELECT '' --"}"#));
    add(
        "a key that it brings along",
        sign(b"mine", r#"{"alg":"HS256","jwk":{"kty":"oct","k":"bWluZQ"}}"#, &good),
    );
    add(
        "a place where keys are",
        sign(b"mine", r#"{"alg":"HS256","jku":"http://127.0.0.1:9/keys"}"#, &good),
    );
    add("no signature", format!("{head}.{body}."));
    add("no signature and no dot", format!("{head}.{body}"));
    add("half a signature", format!("{head}.{body}.{}", &signature[..signature.len() / 2]));
    add("a signature of zeroes", format!("{head}.{body}.{}", encode([0; 32])));
    add("a signature too long", format!("{head}.{body}.{signature}AAAA"));
    add("another's signature", {
        let other = saying(r#"{"org":"rival","exp":9999999999}"#);
        format!("{head}.{body}.{}", other.rsplit('.').next().unwrap())
    });
    add("another's claims", format!("{head}.{}.{signature}", encode(good.replace("acme", "nema"))));
    add("a dot before", format!(".{whole}"));
    add("a dot behind", format!("{whole}."));
    add("dots between", format!("{head}..{body}.{signature}"));
    add("five parts, as if encrypted", format!("{head}.{body}.{signature}.{body}.{signature}"));
    add("padding", format!("{head}==.{body}==.{signature}="));
    add(
        "the other alphabet",
        format!("{head}.{}.{signature}", STANDARD.encode("{\"a\":\"??>>\"}")),
    );
    add("no base64", format!("{head}.{body}*.{signature}"));
    add("a space within", format!("{head}.{body} .{signature}"));
    add("dots only", "..".to_owned());
    add("one word", "acme".to_owned());
    add("claims that are no object", saying("[]"));
    add("claims that are a number", saying("1"));
    add("claims that are no JSON", saying("{"));
    add("claims that are no UTF-8", {
        let text = format!("{head}.{}", encode([0xff, 0xfe, b'{', b'}']));
        let mut mac = Hmac::<Sha256>::new_from_slice(SECRET).unwrap();
        mac.update(text.as_bytes());
        format!("{text}.{}", encode(mac.finalize().into_bytes()))
    });
    add("claims that nest deeply", {
        let deep = format!("{{\"org\":{}{}}}", "[".repeat(2_000), "]".repeat(2_000));
        saying(&deep)
    });
    add("claims twice", saying(&format!(r#"{{"org":"rival","org":"acme","exp":{exp}}}"#)));
    add("an end twice", saying(&format!(r#"{{"org":"acme","exp":1,"exp":{exp}}}"#)));
    add("no end", saying(r#"{"org":"acme"}"#));
    for end in [
        json!(START / 1_000_000 - 60),
        json!(0),
        json!(-1),
        json!(1e300),
        json!("2099-01-01T00:00:00Z"),
        json!(exp.to_string()),
        json!([exp]),
        json!(true),
        Value::Null,
    ] {
        add(&format!("the end {end}"), with("exp", end));
    }
    add("not yet", with("nbf", json!(exp - 60)));
    add("never", with("nbf", json!(1e300)));
    for org in [
        json!("ACME"),
        json!("acme "),
        json!("\u{430}cme"),
        json!("acme\u{200b}"),
        json!("acme\u{0}"),
        json!("*"),
        json!(""),
        json!(["acme"]),
        json!({ "acme": true }),
    ] {
        add(&format!("the org {org}"), with("org", org));
    }
    add("orgs that are a word", with("orgs", json!("acme")));
    add("20 000 bytes", with("pad", json!("x".repeat(20_000))));
    add("a million bytes", "A".repeat(1_000_000));
    corpus
}

#[tokio::test]
async fn no_hostile_token_opens_anything() {
    let api = Api::start().await;
    let ask = async |token: &str, more: &[(&str, &str)]| {
        let bearer = format!("Bearer {token}");
        let mut headers = vec![("authorization", bearer.as_str()), ("orgid", "acme")];
        headers.extend(more);
        api.raw("GET", PATH, &headers, "").await
    };
    let exp = START / 1_000_000 + 3_600;
    let good = format!(r#"{{"sub":"x","org":"acme","exp":{exp}}}"#);
    let good = sign(SECRET, r#"{"alg":"HS256","typ":"JWT"}"#, &good);
    ask(&good, &[]).await.is(200);
    let corpus = corpus();
    assert!(corpus.len() > 80, "{}", corpus.len());
    for (name, token) in &corpus {
        // Twice: what was refused is not remembered as good.
        for _ in 0..2 {
            let got = ask(token, &[]).await;
            let status = got.status.as_u16();
            assert!(matches!(status, 401 | 403), "{name}: {status} {}", got.text());
            let secret = std::str::from_utf8(SECRET).unwrap();
            assert!(!got.text().contains(secret), "{name}");
            let is_echoed = token.len() > 20 && got.text().contains(token.as_str());
            assert!(!is_echoed, "{name} is shown again");
        }
    }
    // A good one beside another credential, or in a place where it does not belong.
    let twice = format!("Bearer {good}");
    ask(&good, &[("authorization", &twice)]).await.is_problem(401, "token_invalid");
    let query = format!("{PATH}?access_token={good}");
    let got = api.raw("GET", &query, &[("orgid", "acme")], "").await;
    got.is_problem(401, "token_missing");
    let cookie = format!("token={good}");
    let got = api.raw("GET", PATH, &[("cookie", cookie.as_str()), ("orgid", "acme")], "").await;
    got.is_problem(401, "token_missing");
    api.stop().await;
}
