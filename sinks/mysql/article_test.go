package mysql_test

import "clerkconnect/sinks/usertable"

// articleTable is the article's own, word for word: two unique keys that the
// server's own collation compares, times of a second, an updated_at that sets
// itself.
const articleTable = `CREATE TABLE users (
  id INT AUTO_INCREMENT PRIMARY KEY,
  clerk_id VARCHAR(255) NOT NULL UNIQUE,
  email VARCHAR(255) NOT NULL UNIQUE,
  first_name VARCHAR(255),
  last_name VARCHAR(255),
  image_url TEXT,
  created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
  updated_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP,
  deleted_at TIMESTAMP NULL,

  INDEX idx_clerk_id (clerk_id),
  INDEX idx_email (email)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;`

// articleSettings are what the README gives for it.
func articleSettings() usertable.Config {
	return usertable.Config{
		Table: "users", KeyColumn: "clerk_id", CreateTable: true, PlaceholderEmail: "{id}@no-email.invalid", Deletion: usertable.DeletionAuto,
		Columns: "email = email, first_name = first_name, last_name = last_name, image_url = image_url, created_at = created_at, updated_at = updated_at",
	}
}

// prismaTable and prismaOrders are what Prisma makes for MySQL of the article's
// second schema, with cuid ids that its client makes up.
const (
	prismaTable = "CREATE TABLE `User` (\n" +
		"    `id` VARCHAR(191) NOT NULL,\n" +
		"    `clerkId` VARCHAR(191) NOT NULL,\n" +
		"    `email` VARCHAR(191) NOT NULL,\n" +
		"    `firstName` VARCHAR(191) NULL,\n" +
		"    `lastName` VARCHAR(191) NULL,\n" +
		"    `imageUrl` VARCHAR(191) NULL,\n" +
		"    `metadata` JSON NULL,\n" +
		"    `deletedAt` DATETIME(3) NULL,\n" +
		"    `bio` VARCHAR(191) NULL,\n" +
		"    `company` VARCHAR(191) NULL,\n" +
		"    `role` ENUM('USER', 'ADMIN', 'MODERATOR') NOT NULL DEFAULT 'USER',\n" +
		"    `tier` ENUM('FREE', 'PRO', 'ENTERPRISE') NOT NULL DEFAULT 'FREE',\n" +
		"    `createdAt` DATETIME(3) NOT NULL DEFAULT CURRENT_TIMESTAMP(3),\n" +
		"    `updatedAt` DATETIME(3) NOT NULL,\n\n" +
		"    UNIQUE INDEX `User_clerkId_key`(`clerkId`),\n" +
		"    UNIQUE INDEX `User_email_key`(`email`),\n" +
		"    PRIMARY KEY (`id`)\n" +
		") DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci"
	prismaOrders = "CREATE TABLE `Order` (`id` VARCHAR(191) NOT NULL, `userId` VARCHAR(191) NOT NULL, PRIMARY KEY (`id`), " +
		"CONSTRAINT `Order_userId_fkey` FOREIGN KEY (`userId`) REFERENCES `User`(`id`) ON DELETE RESTRICT ON UPDATE CASCADE) DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci"
)

// prismaSettings are what the README gives for it.
func prismaSettings() usertable.Config {
	return usertable.Config{
		Table: "User", KeyColumn: "clerkId", DeletedAtColumn: "deletedAt", CreateTable: true, PlaceholderEmail: "{id}@no-email.invalid", Deletion: usertable.DeletionAuto,
		Columns:       "email = email, firstName = first_name, lastName = last_name, imageUrl = image_url, metadata = public_metadata, createdAt = created_at, updatedAt = updated_at",
		InsertColumns: "id = uuid, role = 'USER'",
	}
}
