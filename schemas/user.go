package schemas

// User is the state of one Clerk user as far as the privacy policy keeps it.
// A nil field was left out by the policy or has no value at Clerk. Times are
// Unix milliseconds. Field meanings are Clerk's:
// https://clerk.com/docs/reference/backend/types/backend-user.
type User struct {
	ExternalID                    *string         `avro:"external_id"`
	Username                      *string         `avro:"username"`
	FirstName                     *string         `avro:"first_name"`
	LastName                      *string         `avro:"last_name"`
	Locale                        *string         `avro:"locale"`
	ImageURL                      *string         `avro:"image_url"`
	HasImage                      *bool           `avro:"has_image"`
	PrimaryEmailAddress           *string         `avro:"primary_email_address"`
	PrimaryEmailAddressID         *string         `avro:"primary_email_address_id"`
	EmailAddresses                *[]EmailAddress `avro:"email_addresses"`
	PrimaryPhoneNumberID          *string         `avro:"primary_phone_number_id"`
	PhoneNumbers                  *[]PhoneNumber  `avro:"phone_numbers"`
	PrimaryWeb3WalletID           *string         `avro:"primary_web3_wallet_id"`
	Web3Wallets                   *[]Web3Wallet   `avro:"web3_wallets"`
	Passkeys                      *[]Passkey      `avro:"passkeys"`
	ExternalAccounts              *string         `avro:"external_accounts"`
	SAMLAccounts                  *string         `avro:"saml_accounts"`
	EnterpriseAccounts            *string         `avro:"enterprise_accounts"`
	OrganizationMemberships       *string         `avro:"organization_memberships"`
	SCIM                          *string         `avro:"scim"`
	PublicMetadata                *string         `avro:"public_metadata"`
	PrivateMetadata               *string         `avro:"private_metadata"`
	UnsafeMetadata                *string         `avro:"unsafe_metadata"`
	PasswordEnabled               *bool           `avro:"password_enabled"`
	TwoFactorEnabled              *bool           `avro:"two_factor_enabled"`
	TOTPEnabled                   *bool           `avro:"totp_enabled"`
	BackupCodeEnabled             *bool           `avro:"backup_code_enabled"`
	MFAEnabledAt                  *int64          `avro:"mfa_enabled_at"`
	MFADisabledAt                 *int64          `avro:"mfa_disabled_at"`
	PasswordLastUpdatedAt         *int64          `avro:"password_last_updated_at"`
	LastSignInAt                  *int64          `avro:"last_sign_in_at"`
	LastActiveAt                  *int64          `avro:"last_active_at"`
	LegalAcceptedAt               *int64          `avro:"legal_accepted_at"`
	Banned                        *bool           `avro:"banned"`
	Locked                        *bool           `avro:"locked"`
	Deprovisioned                 *bool           `avro:"deprovisioned"`
	LockoutExpiresInSeconds       *int64          `avro:"lockout_expires_in_seconds"`
	VerificationAttemptsRemaining *int64          `avro:"verification_attempts_remaining"`
	DeleteSelfEnabled             *bool           `avro:"delete_self_enabled"`
	CreateOrganizationEnabled     *bool           `avro:"create_organization_enabled"`
	CreateOrganizationsLimit      *int64          `avro:"create_organizations_limit"`
	BypassClientTrust             *bool           `avro:"bypass_client_trust"`
	CreatedAt                     *int64          `avro:"created_at"`
	UpdatedAt                     *int64          `avro:"updated_at"`
}

// EmailAddress is one entry of a user's email_addresses.
type EmailAddress struct {
	ID                 *string `avro:"id"`
	EmailAddress       string  `avro:"email_address"`
	VerificationStatus *string `avro:"verification_status"`
	CreatedAt          *int64  `avro:"created_at"`
	UpdatedAt          *int64  `avro:"updated_at"`
}

// PhoneNumber is one entry of a user's phone_numbers, without its backup
// codes, which are secrets.
type PhoneNumber struct {
	ID                      *string `avro:"id"`
	PhoneNumber             string  `avro:"phone_number"`
	VerificationStatus      *string `avro:"verification_status"`
	ReservedForSecondFactor *bool   `avro:"reserved_for_second_factor"`
	DefaultSecondFactor     *bool   `avro:"default_second_factor"`
	CreatedAt               *int64  `avro:"created_at"`
	UpdatedAt               *int64  `avro:"updated_at"`
}

// Web3Wallet is one entry of a user's web3_wallets.
type Web3Wallet struct {
	ID                 *string `avro:"id"`
	Web3Wallet         string  `avro:"web3_wallet"`
	VerificationStatus *string `avro:"verification_status"`
	CreatedAt          *int64  `avro:"created_at"`
	UpdatedAt          *int64  `avro:"updated_at"`
}

// Passkey is one entry of a user's passkeys.
type Passkey struct {
	ID                 *string `avro:"id"`
	Name               *string `avro:"name"`
	VerificationStatus *string `avro:"verification_status"`
	LastUsedAt         *int64  `avro:"last_used_at"`
}
