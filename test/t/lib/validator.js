// validator.js: an HTTP receiver that hands each request to the SDK of CloudEvents and to the verifier of Standard Webhooks.
//
//	node validator.js PORT_FILE RECORD
//
// Each request becomes a line of JSON in the record: {"path", "headers", "body" (base64), "events": [...] or "error", "verified"}.  A query string
// says more: ?secret=whsec_... verifies the signature with that secret (repeated: with each), ?plain=1 parses nothing.
//
//	node validator.js --kafka|--nats|--amqp < RECORDS
//
// Prints a line of JSON for each record {"headers", "value", and "key" of Kafka or "contentType" of AMQP}, all text in hexadecimal but names
// of headers: the event, or {"error"}.  The SDK has no binding for NATS, whose messages it is given as those of HTTP, which have the same
// headers, nor for AMQP, whose binding is done here, by its text.
'use strict';

const fs = require('fs');
const http = require('http');
const { CloudEvent, HTTP, Kafka } = require('cloudevents');
const { Webhook } = require('standardwebhooks');

// section 3.1.3.2 of the HTTP binding, which the SDK leaves to its caller
function decoded(headers)
{
	const result = {};

	for (const [name, value] of Object.entries(headers))
		result[name] = name.startsWith('ce-') ? decodeURIComponent(value) : value;
	return result;
}

// what is not text stays bytes
function content(contentType, body)
{
	return /json|text|xml/.test(contentType) ? body.toString('utf8') : body;
}

function events(headers, body)
{
	const parsed = HTTP.toEvent({ headers: decoded(headers), body: content(headers['content-type'], body) });

	return (Array.isArray(parsed) ? parsed : [parsed]).map((event) => {
		event.validate();
		return event.toJSON();
	});
}

function verified(secrets, headers, body)
{
	return secrets.map((secret) => {
		try
		{
			new Webhook(secret).verify(body, headers);
			return true;
		}
		catch (error)
		{
			return String(error.message);
		}
	});
}

function ofKafka(record, headers, bytes)
{
	const value = content(headers['content-type'], bytes);
	const event = Kafka.toEvent({ headers, key: text(record.key), value, body: value });

	event.validate();
	return event.toJSON();
}

// names of headers are what they are in any case; section 3.1.3.2 says what their values may have, which decoding would let pass
function ofNats(record, headers, bytes)
{
	const named = Object.entries(headers).map(([name, value]) => [name.toLowerCase(), value]);

	for (const [name, value] of named)
		if (name.startsWith('ce-') && !/^[!#-~]*$/.test(value))
			throw new Error(`${name} is not percent-encoded`);
	return events(Object.fromEntries(named), bytes)[0];
}

// sections 3 and 3.1: the content type is a property, everything else an application property
function ofAmqp(record, headers, bytes)
{
	const contentType = text(record.contentType);
	const prefix = 'cloudEvents:';
	const attributes = { datacontenttype: contentType };

	if (/^application\/cloudevents/i.test(contentType))
		return events({ 'content-type': contentType }, bytes)[0];
	for (const [name, value] of Object.entries(headers))
		if (name.startsWith(prefix))
			attributes[name.slice(prefix.length)] = value;
	// what the SDK would otherwise make up
	for (const name of ['id', 'time', 'specversion'])
		if (!(name in attributes))
			throw new Error(`no ${name}`);
	attributes.data = content(contentType, bytes);
	if (contentType === 'application/json')
		attributes.data = JSON.parse(attributes.data);
	return new CloudEvent(attributes, true).toJSON();
}

// bytes that are no UTF-8 are an error
function text(hex)
{
	return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(Buffer.from(hex, 'hex'));
}

function ofRecord(read, line)
{
	try
	{
		const record = JSON.parse(line);
		const headers = Object.fromEntries(Object.entries(record.headers).map(([name, value]) => [name, text(value)]));

		return read(record, headers, Buffer.from(record.value, 'hex'));
	}
	catch (error)
	{
		return { error: String(error.message) };
	}
}

function serve(portFile, recordFile)
{
	const record = fs.openSync(recordFile, 'a');
	const server = http.createServer((request, response) => {
		const chunks = [];

		request.on('data', (chunk) => chunks.push(chunk));
		request.on('end', () => {
			const body = Buffer.concat(chunks);
			const url = new URL(request.url, 'http://localhost');
			const line = { path: url.pathname, headers: request.headers, body: body.toString('base64') };

			line.verified = verified(url.searchParams.getAll('secret'), request.headers, body);
			try
			{
				line.events = url.searchParams.has('plain') ? [] : events(request.headers, body);
			}
			catch (error)
			{
				line.error = String(error.message);
			}
			fs.writeSync(record, JSON.stringify(line) + '\n');
			response.writeHead(204).end();
		});
	});
	server.listen(0, '127.0.0.1', () => {
		fs.writeFileSync(portFile + '.new', String(server.address().port));
		fs.renameSync(portFile + '.new', portFile);
	});
}

const readers = { '--kafka': ofKafka, '--nats': ofNats, '--amqp': ofAmqp };
const read = readers[process.argv[2]];

if (read !== undefined)
	for (const line of fs.readFileSync(0, 'utf8').split('\n').filter((line) => line !== ''))
		console.log(JSON.stringify(ofRecord(read, line)));
else
	serve(process.argv[2], process.argv[3]);
