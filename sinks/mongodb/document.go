package mongodb

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strconv"
	"strings"

	"go.mongodb.org/mongo-driver/v2/bson"
)

// paths says where each field goes unless FIELDS says otherwise.
var paths = map[string]string{
	"external_id":                     "externalId",
	"username":                        "username",
	"email":                           "email",
	"primary_email_address_id":        "primaryEmailAddressId",
	"email_addresses":                 "emailAddresses",
	"first_name":                      "profile.firstName",
	"last_name":                       "profile.lastName",
	"locale":                          "profile.locale",
	"image_url":                       "profile.imageUrl",
	"has_image":                       "profile.hasImage",
	"primary_phone_number_id":         "primaryPhoneNumberId",
	"phone_numbers":                   "phoneNumbers",
	"primary_web3_wallet_id":          "primaryWeb3WalletId",
	"web3_wallets":                    "web3Wallets",
	"passkeys":                        "passkeys",
	"external_accounts":               "externalAccounts",
	"saml_accounts":                   "samlAccounts",
	"enterprise_accounts":             "enterpriseAccounts",
	"organization_memberships":        "organizationMemberships",
	"scim":                            "scim",
	"public_metadata":                 "metadata.public",
	"private_metadata":                "metadata.private",
	"unsafe_metadata":                 "metadata.unsafe",
	"password_enabled":                "security.passwordEnabled",
	"two_factor_enabled":              "security.twoFactorEnabled",
	"totp_enabled":                    "security.totpEnabled",
	"backup_code_enabled":             "security.backupCodeEnabled",
	"mfa_enabled_at":                  "security.mfaEnabledAt",
	"mfa_disabled_at":                 "security.mfaDisabledAt",
	"password_last_updated_at":        "security.passwordLastUpdatedAt",
	"banned":                          "security.banned",
	"locked":                          "security.locked",
	"deprovisioned":                   "security.deprovisioned",
	"lockout_expires_in_seconds":      "security.lockoutExpiresInSeconds",
	"verification_attempts_remaining": "security.verificationAttemptsRemaining",
	"bypass_client_trust":             "security.bypassClientTrust",
	"delete_self_enabled":             "permissions.deleteSelf",
	"create_organization_enabled":     "permissions.createOrganization",
	"create_organizations_limit":      "permissions.createOrganizationsLimit",
	"last_sign_in_at":                 "lastSignInAt",
	"last_active_at":                  "lastActiveAt",
	"legal_accepted_at":               "legalAcceptedAt",
	"created_at":                      "createdAt",
	"updated_at":                      "updatedAt",
}

// lists are the columns whose entries we name ourselves, with times in
// milliseconds: their keys become camel case and their times dates. All other
// JSON is Clerk's or the application's and keeps its keys.
var lists = map[string]bool{"email_addresses": true, "phone_numbers": true, "web3_wallets": true, "passkeys": true}

// errJSON hides the decoder's error, which quotes the text.
var errJSON = errors.New("the text is no JSON")

// fromJSON returns the BSON value of a JSON text. Of a key that an object has
// twice the last value counts, as in JavaScript.
func fromJSON(text string, ours bool) (any, error) {
	decoder := json.NewDecoder(strings.NewReader(text))
	decoder.UseNumber()
	value, err := decodeValue(decoder, ours)
	if err != nil {
		return nil, errJSON
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return nil, errJSON
	}
	return value, nil
}

func decodeValue(decoder *json.Decoder, ours bool) (any, error) {
	token, err := decoder.Token()
	if err != nil {
		return nil, err
	}
	switch v := token.(type) {
	case json.Number:
		return number(v.String()), nil
	case json.Delim:
		if v == '[' {
			return decodeArray(decoder, ours)
		}
		return decodeObject(decoder, ours)
	default: // string, bool, nil
		return v, nil
	}
}

func decodeArray(decoder *json.Decoder, ours bool) (bson.A, error) {
	array := bson.A{}
	for decoder.More() {
		item, err := decodeValue(decoder, ours)
		if err != nil {
			return nil, err
		}
		array = append(array, item)
	}
	_, err := decoder.Token()
	return array, err
}

func decodeObject(decoder *json.Decoder, ours bool) (bson.D, error) {
	object, at := bson.D{}, map[string]int{}
	for decoder.More() {
		token, err := decoder.Token()
		if err != nil {
			return nil, err
		}
		key, _ := token.(string)
		value, err := decodeValue(decoder, ours)
		if err != nil {
			return nil, err
		}
		if ms, ok := value.(int64); ok && ours && strings.HasSuffix(key, "_at") {
			value = bson.DateTime(ms)
		}
		if ours {
			key = camel(key)
		}
		if i, twice := at[key]; twice {
			object[i].Value = value
			continue
		}
		at[key] = len(object)
		object = append(object, bson.E{Key: key, Value: value})
	}
	_, err := decoder.Token()
	return object, err
}

// camel turns verification_status into verificationStatus.
func camel(key string) string {
	words := strings.Split(key, "_")
	for i, word := range words[1:] {
		words[i+1] = strings.ToUpper(word[:1]) + word[1:]
	}
	return strings.Join(words, "")
}

// Limits of Decimal128: digits, and the exponent of the last one.
const (
	decimalDigits = 34
	minExponent   = -6176
	maxExponent   = 6111
)

// number returns the first of these that has the digits of a JSON number: an
// int64, the double that prints as it, a Decimal128, or, as no other type is
// left, the text.
func number(text string) any {
	if n, err := strconv.ParseInt(text, 10, 64); err == nil {
		return n
	}
	digits, exponent := significant(text)
	if f, err := strconv.ParseFloat(text, 64); err == nil {
		if d, e := significant(strconv.FormatFloat(f, 'e', -1, 64)); bytes.Equal(d, digits) && e == exponent {
			return f
		}
	}
	if len(digits) <= decimalDigits && exponent >= minExponent && exponent <= maxExponent {
		if d, err := bson.ParseDecimal128(text); err == nil {
			return d
		}
	}
	return text
}

// significant returns the digits of a JSON number without zeros at either end,
// and the exponent of ten of the last one. The sign is left out: no conversion
// changes it. An exponent beyond all types comes out as one that is.
func significant(text string) (digits []byte, exponent int) {
	mantissa, power, _ := strings.Cut(strings.ToLower(strings.TrimPrefix(text, "-")), "e")
	if power != "" {
		exponent, _ = strconv.Atoi(power) // out of range: the nearest that is in
		exponent = max(min(exponent, 1<<30), -1<<30)
	}
	whole, fraction, _ := strings.Cut(mantissa, ".")
	digits = bytes.TrimLeft([]byte(whole+fraction), "0")
	exponent -= len(fraction)
	trimmed := bytes.TrimRight(digits, "0")
	if len(trimmed) == 0 {
		return nil, 0
	}
	return trimmed, exponent + len(digits) - len(trimmed)
}
