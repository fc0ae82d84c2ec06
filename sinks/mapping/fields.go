package mapping

import (
	"encoding/json"
	"time"

	"clerkconnect/schemas"
)

// Field is one field of [schemas.User] as a value that destinations take.
type Field struct {
	// Name is that of user.avsc, but email for primary_email_address.
	Name string
	Kind Kind
	// Value takes the field out of a user: nil, or what Kind says.
	Value func(*schemas.User) any
}

// Fields returns every field, in the order of the default users table.
func Fields() []Field {
	return []Field{
		{"external_id", Text, text(func(u *schemas.User) *string { return u.ExternalID })},
		{"username", Text, text(func(u *schemas.User) *string { return u.Username })},
		{"first_name", Text, text(func(u *schemas.User) *string { return u.FirstName })},
		{"last_name", Text, text(func(u *schemas.User) *string { return u.LastName })},
		{"email", Text, text(func(u *schemas.User) *string { return u.PrimaryEmailAddress })},
		{"primary_email_address_id", Text, text(func(u *schemas.User) *string { return u.PrimaryEmailAddressID })},
		{"email_addresses", JSON, list(func(u *schemas.User) *[]schemas.EmailAddress { return u.EmailAddresses }, emailAddress)},
		{"locale", Text, text(func(u *schemas.User) *string { return u.Locale })},
		{"image_url", Text, text(func(u *schemas.User) *string { return u.ImageURL })},
		{"has_image", Bool, flag(func(u *schemas.User) *bool { return u.HasImage })},
		{"primary_phone_number_id", Text, text(func(u *schemas.User) *string { return u.PrimaryPhoneNumberID })},
		{"phone_numbers", JSON, list(func(u *schemas.User) *[]schemas.PhoneNumber { return u.PhoneNumbers }, phoneNumber)},
		{"primary_web3_wallet_id", Text, text(func(u *schemas.User) *string { return u.PrimaryWeb3WalletID })},
		{"web3_wallets", JSON, list(func(u *schemas.User) *[]schemas.Web3Wallet { return u.Web3Wallets }, web3Wallet)},
		{"passkeys", JSON, list(func(u *schemas.User) *[]schemas.Passkey { return u.Passkeys }, passkey)},
		{"external_accounts", JSON, document(func(u *schemas.User) *string { return u.ExternalAccounts })},
		{"saml_accounts", JSON, document(func(u *schemas.User) *string { return u.SAMLAccounts })},
		{"enterprise_accounts", JSON, document(func(u *schemas.User) *string { return u.EnterpriseAccounts })},
		{"organization_memberships", JSON, document(func(u *schemas.User) *string { return u.OrganizationMemberships })},
		{"scim", JSON, document(func(u *schemas.User) *string { return u.SCIM })},
		{"public_metadata", JSON, document(func(u *schemas.User) *string { return u.PublicMetadata })},
		{"private_metadata", JSON, document(func(u *schemas.User) *string { return u.PrivateMetadata })},
		{"unsafe_metadata", JSON, document(func(u *schemas.User) *string { return u.UnsafeMetadata })},
		{"password_enabled", Bool, flag(func(u *schemas.User) *bool { return u.PasswordEnabled })},
		{"two_factor_enabled", Bool, flag(func(u *schemas.User) *bool { return u.TwoFactorEnabled })},
		{"totp_enabled", Bool, flag(func(u *schemas.User) *bool { return u.TOTPEnabled })},
		{"backup_code_enabled", Bool, flag(func(u *schemas.User) *bool { return u.BackupCodeEnabled })},
		{"mfa_enabled_at", Time, moment(func(u *schemas.User) *int64 { return u.MFAEnabledAt })},
		{"mfa_disabled_at", Time, moment(func(u *schemas.User) *int64 { return u.MFADisabledAt })},
		{"password_last_updated_at", Time, moment(func(u *schemas.User) *int64 { return u.PasswordLastUpdatedAt })},
		{"last_sign_in_at", Time, moment(func(u *schemas.User) *int64 { return u.LastSignInAt })},
		{"last_active_at", Time, moment(func(u *schemas.User) *int64 { return u.LastActiveAt })},
		{"legal_accepted_at", Time, moment(func(u *schemas.User) *int64 { return u.LegalAcceptedAt })},
		{"banned", Bool, flag(func(u *schemas.User) *bool { return u.Banned })},
		{"locked", Bool, flag(func(u *schemas.User) *bool { return u.Locked })},
		{"deprovisioned", Bool, flag(func(u *schemas.User) *bool { return u.Deprovisioned })},
		{"lockout_expires_in_seconds", Integer, integer(func(u *schemas.User) *int64 { return u.LockoutExpiresInSeconds })},
		{"verification_attempts_remaining", Integer, integer(func(u *schemas.User) *int64 { return u.VerificationAttemptsRemaining })},
		{"delete_self_enabled", Bool, flag(func(u *schemas.User) *bool { return u.DeleteSelfEnabled })},
		{"create_organization_enabled", Bool, flag(func(u *schemas.User) *bool { return u.CreateOrganizationEnabled })},
		{"create_organizations_limit", Integer, integer(func(u *schemas.User) *int64 { return u.CreateOrganizationsLimit })},
		{"bypass_client_trust", Bool, flag(func(u *schemas.User) *bool { return u.BypassClientTrust })},
		{"created_at", Time, moment(func(u *schemas.User) *int64 { return u.CreatedAt })},
		{"updated_at", Time, moment(func(u *schemas.User) *int64 { return u.UpdatedAt })},
	}
}

func text(field func(*schemas.User) *string) func(*schemas.User) any {
	return func(u *schemas.User) any {
		if s := field(u); s != nil {
			return CleanText(*s)
		}
		return nil
	}
}

func document(field func(*schemas.User) *string) func(*schemas.User) any {
	return func(u *schemas.User) any {
		if s := field(u); s != nil {
			return CleanJSON(*s)
		}
		return nil
	}
}

func flag(field func(*schemas.User) *bool) func(*schemas.User) any {
	return func(u *schemas.User) any {
		if b := field(u); b != nil {
			return *b
		}
		return nil
	}
}

func integer(field func(*schemas.User) *int64) func(*schemas.User) any {
	return func(u *schemas.User) any {
		if n := field(u); n != nil {
			return *n
		}
		return nil
	}
}

func moment(field func(*schemas.User) *int64) func(*schemas.User) any {
	return func(u *schemas.User) any {
		if ms := field(u); ms != nil {
			return time.UnixMilli(*ms).UTC()
		}
		return nil
	}
}

// list renders an array of records as JSON, each entry by way of a type that
// has JSON names.
func list[T, J any](field func(*schemas.User) *[]T, entry func(T) J) func(*schemas.User) any {
	return func(u *schemas.User) any {
		items := field(u)
		if items == nil {
			return nil
		}
		entries := make([]J, len(*items))
		for i, item := range *items {
			entries[i] = entry(item)
		}
		// Structs of strings, booleans and integers: this cannot fail.
		out, _ := json.Marshal(entries)
		return CleanJSON(string(out))
	}
}

// The entries of the lists under the names of user.avsc, times as Unix
// milliseconds. Go converts between struct types that differ in tags alone, so
// a field that is added to package schemas and not here does not compile.
type (
	jsonEmailAddress struct {
		ID                 *string `json:"id"`
		EmailAddress       string  `json:"email_address"`
		VerificationStatus *string `json:"verification_status"`
		CreatedAt          *int64  `json:"created_at"`
		UpdatedAt          *int64  `json:"updated_at"`
	}
	jsonPhoneNumber struct {
		ID                      *string `json:"id"`
		PhoneNumber             string  `json:"phone_number"`
		VerificationStatus      *string `json:"verification_status"`
		ReservedForSecondFactor *bool   `json:"reserved_for_second_factor"`
		DefaultSecondFactor     *bool   `json:"default_second_factor"`
		CreatedAt               *int64  `json:"created_at"`
		UpdatedAt               *int64  `json:"updated_at"`
	}
	jsonWeb3Wallet struct {
		ID                 *string `json:"id"`
		Web3Wallet         string  `json:"web3_wallet"`
		VerificationStatus *string `json:"verification_status"`
		CreatedAt          *int64  `json:"created_at"`
		UpdatedAt          *int64  `json:"updated_at"`
	}
	jsonPasskey struct {
		ID                 *string `json:"id"`
		Name               *string `json:"name"`
		VerificationStatus *string `json:"verification_status"`
		LastUsedAt         *int64  `json:"last_used_at"`
	}
)

func emailAddress(e schemas.EmailAddress) jsonEmailAddress { return jsonEmailAddress(e) }
func phoneNumber(p schemas.PhoneNumber) jsonPhoneNumber    { return jsonPhoneNumber(p) }
func web3Wallet(w schemas.Web3Wallet) jsonWeb3Wallet       { return jsonWeb3Wallet(w) }
func passkey(p schemas.Passkey) jsonPasskey                { return jsonPasskey(p) }
