package clerksim

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"strings"
)

var (
	firstNames = []string{
		"Ada", "Søren 🚀", "Mia", "Noah", "Wei", "美咲", "Zoë", "Kwame", "Olu", "Ines", "Łukasz", "Émile", "Ayşe", "Đức",
		"Priya", "Jack", "D'Arcy", "عمر", "Björk", "Anna-Lena", "𝒜lma", "Tom\tTab", "Nils", "Sofía", "Grace", "Alan",
	}
	lastNames = []string{
		"Okafor", "陳-Müller", "Smith", "O'Neill", "García Márquez", "Ng", "de la Cruz", "Ωmega", "Kowalski", "Þórsdóttir",
		"\"Quote\" Back\\slash", "Hopper", "Turing", "Nguyễn", "Ibrahim", "李", "Lovelace", "van den Berg", "🦊 Fox", "Ito",
	}
	domains = []string{"example.com", "example.com", "example.org", "mail.example.net", "exämple.example"}
	locales = []string{"", "", "", "en-US", "da-DK", "pt-BR", "ja-JP"}
	agents  = []string{
		"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36",
		"Mozilla/5.0 (iPhone; CPU iPhone OS 18_1 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.1 Mobile/15E148 Safari/604.1",
		"okhttp/4.12.0",
	}
)

const base62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

// newID makes an id as Clerk does: the prefix and a KSUID, 27 base62 digits of
// the second (after 1.4e9) and 128 random bits. https://github.com/segmentio/ksuid
func (i *Instance) newID(prefix string, ms int64) string {
	a, b := i.rng.Uint64(), i.rng.Uint64()
	part := [5]uint32{uint32(ms/1000 - 1_400_000_000), uint32(a >> 32), uint32(a), uint32(b >> 32), uint32(b)}
	var digits [27]byte
	for d := len(digits) - 1; d >= 0; d-- {
		var rest uint64
		for p := range part {
			v := rest<<32 | uint64(part[p])
			part[p], rest = uint32(v/62), v%62
		}
		digits[d] = base62[rest]
	}
	return prefix + string(digits[:])
}

// secrets derives what an instance is called and guarded by from a seed, apart
// from the stream that users and acts are drawn from.
func secrets(seed uint64) (instanceID, secretKey, signingSecret string) {
	rng := rand.New(rand.NewPCG(seed, 0x5ec2e7))
	token := func(n int) string {
		b := make([]byte, n)
		for j := range b {
			b[j] = base62[rng.IntN(len(base62))]
		}
		return string(b)
	}
	key := make([]byte, 24) // as long as Svix's
	for j := 0; j < len(key); j += 8 {
		binary.BigEndian.PutUint64(key[j:], rng.Uint64())
	}
	return "ins_" + token(27), "sk_test_" + token(42), "whsec_" + base64.StdEncoding.EncodeToString(key)
}

func (i *Instance) chance(percent float64) bool { return i.rng.Float64()*100 < percent }

func (i *Instance) oneOf(choices []string) string { return choices[i.rng.IntN(len(choices))] }

// newUser makes a user of one of the many kinds, created at ms.
func (i *Instance) newUser(ms int64) *user {
	i.seq++
	u := &user{ID: i.newID("user_", ms), Created: ms, Updated: ms, LegalAt: ms, Locale: i.oneOf(locales)}
	if !i.chance(8) {
		u.First, u.Last = i.oneOf(firstNames), i.oneOf(lastNames)
	}
	if i.chance(20) {
		u.Image = i.newImage()
	}
	if i.chance(30) {
		u.ExternalID = fmt.Sprintf("crm-%d", i.seq)
		if i.chance(10) {
			u.ExternalID = fmt.Sprintf("erp:%d-ÆØÅ", i.seq)
		}
	}
	switch kind := i.rng.IntN(100); {
	case kind < 6: // phone only
		u.Phones = []ident{i.newIdent(ms, fmt.Sprintf("+23480%08d", i.seq), "phone")}
		u.PrimaryPhone = u.Phones[0].ID
	case kind < 10: // username and password only
		u.Username, u.Password, u.PasswordAt = fmt.Sprintf("user_%d", i.seq), true, ms
	case kind < 12: // passkey only
		u.Username = fmt.Sprintf("key.%d.陳", i.seq)
		u.Passkeys = []ident{i.newIdent(ms, "Chrome on Mac", "passkey")}
	case kind < 14: // web3 only
		u.Wallets = []ident{i.newIdent(ms, fmt.Sprintf("0x%040x", i.rng.Uint64()), "web3")}
		u.PrimaryWallet = u.Wallets[0].ID
	default:
		i.addEmails(u, ms)
	}
	i.addMetadata(u)
	return u
}

func (i *Instance) addEmails(u *user, ms int64) {
	address := i.newAddress(u.First)
	how := []string{"code", "code", "link", "admin", "google", "github"}[i.rng.IntN(6)]
	u.Emails = []ident{i.newIdent(ms, address, how)}
	u.PrimaryEmail = u.Emails[0].ID
	if how == "google" || how == "github" {
		u.Accounts = append(u.Accounts, account{
			ID: i.newID("eac_", ms), Ident: i.newID("idn_", ms), Provider: how,
			Subject: fmt.Sprintf("1174%017d", i.seq), Email: address, Created: ms,
		})
	} else {
		u.Password, u.PasswordAt = true, ms
	}
	for range i.rng.IntN(4) - 1 { // half have two or three, and then the first is seldom the primary one
		i.seq++
		other := i.newIdent(ms, i.newAddress(u.First), i.oneOf([]string{"code", "unverified", "none"}))
		if other.How == "code" && i.chance(80) {
			u.Emails = append([]ident{other}, u.Emails...)
		} else {
			u.Emails = append(u.Emails, other)
		}
	}
	if i.chance(0.3) { // a reference that dangles, as in Clerk's own examples
		u.PrimaryEmail = i.newID("idn_", ms)
	}
	if i.chance(10) {
		u.Username = fmt.Sprintf("soren.陳%d", i.seq)
	}
	if i.chance(10) {
		u.Phones = []ident{i.newIdent(ms, fmt.Sprintf("+1555%07d", i.seq), "phone")}
		u.PrimaryPhone = u.Phones[0].ID
	}
}

func (i *Instance) addMetadata(u *user) {
	if i.chance(60) {
		u.Public = i.newMetadata()
	}
	if i.chance(30) {
		u.Private = fmt.Sprintf(`{"stripe_customer_id":"cus_Sim%d","risk":{"score":0.73,"reviewed":false}}`, i.seq)
	}
	if i.chance(20) {
		u.Unsafe = fmt.Sprintf(`{"onboarding":{"step":%d},"bio":"<b>hi</b> 👩‍👩‍👧‍👦 العربية"}`, i.rng.IntN(9))
		if i.chance(10) {
			u.Unsafe = `{"bio":"a\u0000b"}`
		}
	}
}

// newMetadata makes a JSON object of one of several shapes, one of which a
// float64 cannot hold and one of which PostgreSQL refuses.
func (i *Instance) newMetadata() string {
	plan := i.oneOf([]string{"free", "pro", "enterprise"})
	n := i.rng.IntN(1000)
	switch kind := i.rng.IntN(100); {
	case kind < 60:
		return fmt.Sprintf(`{"plan":%q,"seats":%d}`, plan, n)
	case kind < 75:
		return fmt.Sprintf(`{"plan":%q,"limits":{"big":%d,"ratio":0.1,"tiny":1e-7},"exact":12345678901234567890.125}`, plan, 1<<53+1+n)
	case kind < 90:
		return fmt.Sprintf(`{"nested":{"a":{"b":{"c":[1,2,{"d":null}]}}},"flags":["beta","α-tester"],"empty":{},"n":%d}`, n)
	case kind < 97:
		return fmt.Sprintf(`{"note":"line1\nline2\t\"quoted\" \\ \u0001 🚀","n":%d}`, n)
	default:
		return fmt.Sprintf(`{"nul":"a\u0000b","n":%d}`, n)
	}
}

func (i *Instance) newIdent(ms int64, value, how string) ident {
	return ident{ID: i.newID("idn_", ms), Value: value, How: how, Created: ms, Updated: ms}
}

func (i *Instance) newImage() string {
	return "eyJ0eXBlIjoicHJveHkiLCJzcmMiOiJ1cGxvYWRlZCJ9" + hex.EncodeToString(binary.BigEndian.AppendUint32(nil, i.rng.Uint32()))
}

// newAddress makes an e-mail address that no user had before.
func (i *Instance) newAddress(first string) string {
	local := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' {
			return r
		}
		return -1
	}, strings.ToLower(first))
	if local == "" {
		local = "user"
	}
	if i.chance(10) {
		local += "+news"
	}
	return fmt.Sprintf("%s.%d@%s", local, i.seq, i.oneOf(domains))
}

// populate makes the users that exist before the first delivery, over the two
// years before now. One in a hundred shares its created_at with the one before.
func (i *Instance) populate(n int) {
	const years = 2 * 365 * day
	end := i.now() - 60_000
	at := end - years
	for k := range n {
		if !i.chance(1) {
			at += 1 + i.rng.Int64N(max(1, 2*(end-at)/int64(n-k)-1))
		}
		at = min(at, end)
		u := i.newUser(at)
		u.Updated = at + i.rng.Int64N(end-at+1)
		if i.chance(70) {
			u.SignIn = u.Updated
		}
		u.Banned = i.chance(1)
		i.lock(u, i.chance(1))
		if i.chance(3) {
			u.TOTP, u.MFAOn = true, u.Updated
		}
		i.put(u)
	}
}

// lock locks u for hours or, every other time, until it is unlocked.
func (i *Instance) lock(u *user, on bool) {
	u.Locked, u.LockedUntil = on, 0
	if on && i.chance(50) {
		u.LockedUntil = u.Updated + 1000*day // far enough that it does not end by itself
	}
}
