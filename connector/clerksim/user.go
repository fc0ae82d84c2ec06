package clerksim

import (
	"cmp"
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"time"
)

// user is one user, in as few bytes as possible: 200,000 of them fit in about
// 200 MB. It is never changed once it is in the instance: an act puts a changed
// copy in its place, so that readers need no lock and a message keeps the user
// as it was. An empty string is null, a time of 0 (ms) is null.
type user struct {
	ID            string    `json:"id"`
	ExternalID    string    `json:"ext,omitempty"`
	Username      string    `json:"un,omitempty"`
	First         string    `json:"fn,omitempty"`
	Last          string    `json:"ln,omitempty"`
	Locale        string    `json:"loc,omitempty"`
	Image         string    `json:"img,omitempty"` // last part of the URL; empty is Clerk's default picture
	PrimaryEmail  string    `json:"pe,omitempty"`
	PrimaryPhone  string    `json:"pp,omitempty"`
	PrimaryWallet string    `json:"pw,omitempty"`
	Emails        []ident   `json:"em,omitempty"`
	Phones        []ident   `json:"ph,omitempty"`
	Wallets       []ident   `json:"wa,omitempty"`
	Passkeys      []ident   `json:"pk,omitempty"`
	Accounts      []account `json:"ac,omitempty"`
	Public        string    `json:"pub,omitempty"` // metadata to the byte; empty is {}
	Private       string    `json:"pri,omitempty"`
	Unsafe        string    `json:"uns,omitempty"`
	Created       int64     `json:"ca"`
	Updated       int64     `json:"ua"`
	SignIn        int64     `json:"si,omitempty"`
	LegalAt       int64     `json:"la,omitempty"`
	PasswordAt    int64     `json:"pa,omitempty"`
	MFAOn         int64     `json:"m1,omitempty"`
	MFAOff        int64     `json:"m0,omitempty"`
	LockedUntil   int64     `json:"lu,omitempty"` // 0 while Locked: the lock never expires
	Locked        bool      `json:"lk,omitempty"`
	Banned        bool      `json:"bn,omitempty"`
	Password      bool      `json:"pwd,omitempty"`
	TOTP          bool      `json:"totp,omitempty"`
}

// ident is an e-mail address, phone number, web3 wallet or passkey. How names
// the verification: see verification.
type ident struct {
	ID      string `json:"i"`
	Value   string `json:"v"`
	How     string `json:"h"`
	Created int64  `json:"c"`
	Updated int64  `json:"u"`
}

// account is a user's account at google or github.
type account struct {
	ID       string `json:"i"`
	Ident    string `json:"d"`
	Provider string `json:"p"`
	Subject  string `json:"s"`
	Email    string `json:"e"`
	Created  int64  `json:"c"`
}

// clone copies u so that the copy may be changed.
func (u *user) clone() *user {
	c := *u
	c.Emails, c.Phones, c.Wallets = slices.Clone(u.Emails), slices.Clone(u.Phones), slices.Clone(u.Wallets)
	c.Passkeys, c.Accounts = slices.Clone(u.Passkeys), slices.Clone(u.Accounts)
	return &c
}

// primary returns the index of the primary e-mail address, -1 if there is none.
func (u *user) primary() int {
	return slices.IndexFunc(u.Emails, func(e ident) bool { return e.ID == u.PrimaryEmail })
}

const (
	imageURL     = "https://img.clerk.com/"
	defaultImage = "eyJ0eXBlIjoiZGVmYXVsdCJ9" // base64 of {"type":"default"}
	day          = int64(24 * time.Hour / time.Millisecond)
)

// json writes the user as Clerk does at now (unix ms), the same for the
// Backend API and for webhooks.
func (u *user) json(now int64) []byte {
	o := make(object, 0, 2560)
	o = append(o, `{"object":"user","bypass_client_trust":false,"create_organization_enabled":true,"create_organizations_limit":null,`+
		`"delete_self_enabled":true,"deprovisioned":false,"enterprise_accounts":[],"saml_accounts":[]`...)
	o.flag("backup_code_enabled", u.TOTP)
	o.flag("banned", u.Banned)
	o.num("created_at", u.Created)
	o.raw("email_addresses", array(u.Emails, u.emailJSON))
	o.raw("external_accounts", array(u.Accounts, u.accountJSON))
	o.text("external_id", u.ExternalID)
	o.text("first_name", u.First)
	o.flag("has_image", u.Image != "")
	o.text("id", u.ID)
	image := cmp.Or(u.Image, defaultImage)
	o.text("image_url", imageURL+image)
	o.num("last_active_at", u.SignIn/day*day) // day precision, says Clerk's description
	o.text("last_name", u.Last)
	o.num("last_sign_in_at", u.SignIn)
	o.num("legal_accepted_at", u.LegalAt)
	o.text("locale", u.Locale)
	o.flag("locked", u.Locked)
	var lockout int64
	if u.Locked && u.LockedUntil != 0 {
		lockout = max(1, (u.LockedUntil-now)/1000)
	}
	o.num("lockout_expires_in_seconds", lockout)
	o.num("mfa_disabled_at", u.MFAOff)
	o.num("mfa_enabled_at", u.MFAOn)
	o.raw("passkeys", array(u.Passkeys, passkeyJSON))
	o.flag("password_enabled", u.Password)
	o.num("password_last_updated_at", u.PasswordAt)
	o.raw("phone_numbers", array(u.Phones, phoneJSON))
	o.text("primary_email_address_id", u.PrimaryEmail)
	o.text("primary_phone_number_id", u.PrimaryPhone)
	o.text("primary_web3_wallet_id", u.PrimaryWallet)
	o.raw("private_metadata", cmp.Or(u.Private, "{}"))
	o.text("profile_image_url", imageURL+image)
	o.raw("public_metadata", cmp.Or(u.Public, "{}"))
	o.flag("totp_enabled", u.TOTP)
	o.flag("two_factor_enabled", u.TOTP)
	o.raw("unsafe_metadata", cmp.Or(u.Unsafe, "{}"))
	o.num("updated_at", u.Updated)
	o.text("username", u.Username)
	attempts := "100"
	if u.Locked {
		attempts = "0"
	}
	o.raw("verification_attempts_remaining", attempts)
	o.raw("web3_wallets", array(u.Wallets, walletJSON))
	return o.end()
}

func (u *user) emailJSON(e ident) []byte {
	var links []account
	for _, a := range u.Accounts {
		if a.Email == e.Value {
			links = append(links, a)
		}
	}
	o := identJSON(e, "email_address")
	o.raw("linked_to", array(links, func(a account) []byte {
		var l object
		l.text("id", a.Ident)
		l.text("type", "oauth_"+a.Provider)
		return l.end()
	}))
	o.raw("matches_sso_connection", "false")
	o.flag("reserved", len(links) > 0)
	return o.end()
}

func phoneJSON(p ident) []byte {
	o := identJSON(p, "phone_number")
	o.raw("backup_codes", "null")
	for _, no := range []string{"default_second_factor", "reserved", "reserved_for_second_factor"} {
		o.raw(no, "false")
	}
	o.raw("linked_to", "[]")
	return o.end()
}

func walletJSON(w ident) []byte {
	o := identJSON(w, "web3_wallet")
	return o.end()
}

func passkeyJSON(p ident) []byte {
	o := make(object, 0, 512)
	o.text("id", p.ID)
	o.num("last_used_at", p.Updated)
	o.text("name", p.Value)
	o.raw("object", `"passkey"`)
	o.raw("verification", verification(p))
	return o.end()
}

// identJSON begins an e-mail address, phone number or wallet; Clerk names the
// value after the kind.
func identJSON(i ident, kind string) object {
	o := make(object, 0, 512)
	o.num("created_at", i.Created)
	o.text("id", i.ID)
	o.text("object", kind)
	o.num("updated_at", i.Updated)
	o.raw("verification", verification(i))
	o.text(kind, i.Value)
	return o
}

func (u *user) accountJSON(a account) []byte {
	o := make(object, 0, 1024)
	kind, provider := "external_account", "oauth_"+a.Provider
	scopes := "read:user user:email"
	if a.Provider == "google" {
		kind, provider, scopes = "google_account", "google", "email openid profile"
	}
	o.text("approved_scopes", scopes)
	o.num("created_at", a.Created)
	o.text("email_address", a.Email)
	o.raw("email_address_verified", "true")
	o.quoted("first_name", u.First)
	o.text("id", a.ID)
	o.text("identification_id", a.Ident)
	o.text("image_url", imageURL+"eyJ0eXBlIjoicHJveHkifQ")
	o.raw("label", "null")
	o.quoted("last_name", u.Last)
	o.text("object", kind)
	o.raw("phone_number", "null")
	o.text("provider", provider)
	o.text("provider_user_id", a.Subject)
	o.raw("public_metadata", "{}")
	o.num("updated_at", a.Created)
	o.quoted("username", u.Username)
	o.raw("verification", `{"attempts":null,"expire_at":`+strconv.FormatInt(a.Created+600_000, 10)+
		`,"object":"verification_oauth","status":"verified","strategy":"oauth_`+a.Provider+`"}`)
	if a.Provider == "google" {
		o.quoted("family_name", u.Last)
		o.quoted("given_name", u.First)
		o.text("google_id", a.Subject)
		o.text("picture", "https://lh3.example.com/a/"+a.Subject)
	}
	return o.end()
}

// verifications holds how an identifier was verified; EXPIRE stands for a time.
var verifications = map[string]string{
	"code":       `{"attempts":1,"expire_at":EXPIRE,"object":"verification_otp","status":"verified","strategy":"email_code"}`,
	"link":       `{"attempts":null,"expire_at":EXPIRE,"object":"verification_email_link","status":"verified","strategy":"email_link"}`,
	"admin":      `{"attempts":null,"expire_at":null,"object":"verification_admin","status":"verified","strategy":"admin"}`,
	"google":     `{"attempts":null,"expire_at":null,"object":"verification_from_oauth","status":"verified","strategy":"from_oauth_google"}`,
	"github":     `{"attempts":null,"expire_at":null,"object":"verification_from_oauth","status":"verified","strategy":"from_oauth_github"}`,
	"unverified": `{"attempts":0,"expire_at":EXPIRE,"object":"verification_otp","status":"unverified","strategy":"email_code"}`,
	"none":       `null`,
	"phone":      `{"attempts":1,"channel":"sms","expire_at":EXPIRE,"object":"verification_otp","status":"verified","strategy":"phone_code"}`,
	"web3":       `{"attempts":1,"expire_at":EXPIRE,"nonce":"6fE0","object":"verification_web3","status":"verified","strategy":"web3_metamask_signature"}`,
	"passkey":    `{"attempts":1,"expire_at":EXPIRE,"nonce":"nonce","object":"verification_passkey","status":"verified","strategy":"passkey"}`,
}

func verification(i ident) string {
	return strings.Replace(verifications[i.How], "EXPIRE", strconv.FormatInt(i.Created+600_000, 10), 1) // codes live for ten minutes
}

// object writes a JSON object field by field, which is quicker than encoding/json
// over a map and shorter than its structs would be.
type object []byte

func (o *object) raw(key, value string) {
	c := byte(',')
	if len(*o) == 0 {
		c = '{'
	}
	*o = append(*o, c, '"')
	*o = append(append(*o, key...), '"', ':')
	*o = append(*o, value...)
}

func (o *object) flag(key string, v bool) { o.raw(key, strconv.FormatBool(v)) }

// num writes v, or null for 0.
func (o *object) num(key string, v int64) {
	if v == 0 {
		o.raw(key, "null")
		return
	}
	o.raw(key, "")
	*o = strconv.AppendInt(*o, v, 10)
}

// text writes s, or null for "".
func (o *object) text(key, s string) {
	if s == "" {
		o.raw(key, "null")
		return
	}
	o.quoted(key, s)
}

func (o *object) quoted(key, s string) {
	o.raw(key, "")
	for i := range len(s) {
		if s[i] < ' ' || s[i] == '"' || s[i] == '\\' {
			q, _ := json.Marshal(s) // a string always can be marshalled
			*o = append(*o, q...)
			return
		}
	}
	*o = append(append(append(*o, '"'), s...), '"')
}

func (o *object) end() []byte { return append(*o, '}') }

func array[T any](items []T, write func(T) []byte) string {
	if len(items) == 0 {
		return "[]"
	}
	b := []byte{'['}
	for n, item := range items {
		if n > 0 {
			b = append(b, ',')
		}
		b = append(b, write(item)...)
	}
	return string(append(b, ']'))
}
